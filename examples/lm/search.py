"""Search a format for every layer of a causal language model, by its perplexity over a text.

    python -m examples.lm.search                        the model and the text beside this script
    python -m examples.lm.search --model-dir opt-125m --text wikitext.txt --length 512

A model's folder is one that Hugging Face's optimum wrote: model.onnx and tokenizer.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from autosearch import cli
from examples.lm.sequences import feeds_for, model_inputs, sequences
from examples.lm.tokenizer import load_tokenizer

FOLDER = Path(__file__).parent
_BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Writes the text as the model reads it, and searches; returns the exit code of `autosearch search`."""
    options = _options(arguments)
    try:
        data = write_data(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    command = ["search", str(options.config), "--model", str(model_file(options.model_dir))]
    command += ["--data", str(data), "--output-dir", str(options.output_dir)]
    for change in options.set:
        command += ["--set", change]
    return cli.main(command)


def write_data(options: argparse.Namespace) -> Path:
    """Writes text.npz in the output folder: an array for each input of the model."""
    text = options.text.read_text(encoding="utf-8")
    tokens = load_tokenizer(options.model_dir / "tokenizer.json").encode(text)
    input_ids = sequences(tokens, options.length, options.sequences)
    arrays = feeds_for(model_inputs(model_file(options.model_dir)), input_ids)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path: Path = options.output_dir / "text.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(input_ids)} sequences of {options.length} tokens; {options.text} has {len(tokens)}")
    return path


def model_file(folder: Path) -> Path:
    """model.onnx of a folder, or of the folder onnx in it, as models on the Hugging Face hub have it."""
    nested = folder / "onnx" / "model.onnx"
    return nested if nested.is_file() else folder / "model.onnx"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, metavar="D", default=FOLDER)
    parser.add_argument("--text", type=Path, metavar="FILE", default=FOLDER / "heldout.txt")
    parser.add_argument("--length", type=int, metavar="N", default=128, help="tokens of a sequence (128)")
    parser.add_argument("--sequences", type=int, metavar="N", help="how many of the text; default: all")
    parser.add_argument("--config", type=Path, metavar="TOML", default=FOLDER / "search.toml")
    parser.add_argument("--output-dir", type=Path, metavar="D", default=Path("results/lm"))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as of autosearch search"
    )
    options = parser.parse_args(arguments)
    if options.length < 2 or (options.sequences is not None and options.sequences < 1):
        parser.error("--length: at least 2 tokens; --sequences: at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
