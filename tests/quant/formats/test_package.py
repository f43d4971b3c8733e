from __future__ import annotations

import subprocess
import sys

import quant.formats


def test_exported_names() -> None:
    assert sorted(quant.formats.__all__) == [
        "ALIASES",
        "DOMAIN",
        "Derived",
        "Emulation",
        "FLOAT",
        "FORMATS",
        "Family",
        "Format",
        "KnownShape",
        "LayerFormats",
        "Native",
        "Parameter",
        "REQUIRED",
        "ROLES",
        "format_family",
        "layer_formats",
        "make_format",
    ]
    assert all(hasattr(quant.formats, name) for name in quant.formats.__all__)


def test_can_be_imported_first() -> None:
    subprocess.run([sys.executable, "-c", "import quant.formats"], check=True, timeout=120)
