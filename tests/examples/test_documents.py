"""What READMEs and docs say that a machine can check: links, and the YAML that is meant to be pasted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from autosearch import cli
from autosearch.config import AutoSearchConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


def slug(heading: str) -> str:
    """As GitHub makes anchors of headings."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    text = document.read_text("utf-8")
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_readme_has_every_key_of_a_search() -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## Settings of a search")[1].split("\n## ")[0]
    keys = {
        key
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    }
    own = set(AutoSearchConfig.__dataclass_fields__)
    assert own <= keys


def test_the_search_per_layer_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (pasted,) = [block for block in blocks if "model_input: examples/" in block]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "digits", tmp_path / "examples" / "digits")
    (tmp_path / "layers.yaml").write_text(pasted, "utf-8")
    few = ["--set", "search_stop_condition.iteration_limit=2", "--set", "eval_data.samples=50"]
    assert cli.main(["search", "layers.yaml", *few]) == 0
    assert "Best trial(s):" in capsys.readouterr().out
