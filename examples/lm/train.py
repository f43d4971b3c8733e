"""Train the tokenizer and the language model, and write model and data beside this script.

    pip install -e '.[train]'
    python -m examples.lm.train

Takes a quarter of an hour on a CPU. The seed fixes the result for one version of Python, whose
library is the text, but for how a machine or torch version rounds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from examples.lm.corpus import documents
from examples.lm.tokenizer import train_bpe

FOLDER = Path(__file__).parent
SEED = 1
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # OPT's, with OPT's ids
VOCABULARY = 1024
CONTEXT = 128
WIDTH, HEADS, LAYERS = 80, 4, 3
BATCH = 32
EPOCHS = 16
LEARNING_RATE = 4e-3
DROPOUT = 0.05
POSITION_OFFSET = 2  # OPT's first two positions are never used


class Attention(nn.Module):
    """Causal multi-head attention, (batch, tokens, WIDTH) -> the same; projections with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        batch, tokens, _ = hidden.shape
        query, key, value = (
            projection(hidden).view(batch, tokens, HEADS, WIDTH // HEADS).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (query * (WIDTH // HEADS) ** -0.5) @ key.transpose(2, 3)
        weights = scores.masked_fill(~allowed, -1e4).softmax(dim=-1)
        return self.out_proj((weights @ value).transpose(1, 2).reshape(batch, tokens, WIDTH))


class DecoderLayer(nn.Module):
    """Attention, then a ReLU network four times as wide, LayerNorm before either."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: Tensor, allowed: Tensor) -> Tensor:
        attended = self.self_attn(self.self_attn_layer_norm(hidden), allowed)
        hidden = hidden + functional.dropout(attended, DROPOUT, self.training)
        widened = self.fc2(functional.relu(self.fc1(self.final_layer_norm(hidden))))
        return hidden + functional.dropout(widened, DROPOUT, self.training)


class Decoder(nn.Module):
    """Embeddings of tokens and positions, the layers, and a last LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.embed_positions = nn.Embedding(CONTEXT + POSITION_OFFSET, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = attention_mask.cumsum(dim=1) * attention_mask - 1 + POSITION_OFFSET
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        causal = steps[:, None] >= steps[None, :]
        allowed = causal[None, None] & attention_mask[:, None, None, :].bool()
        hidden = self.embed_tokens(input_ids) + self.embed_positions(positions)
        for layer in self.layers:
            hidden = layer(hidden, allowed)
        return self.final_layer_norm(hidden)


class Opt(nn.Module):
    """OPT (Zhang et al., 2022, arXiv:2205.01068), small; modules are called as in its checkpoints.

    (batch, tokens) int64 ids and mask -> (batch, tokens, VOCABULARY) logits. The embedding of a
    token is its row of the output projection, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"decoder": Decoder()})
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02 / (2 * LAYERS) ** 0.5 if "out_proj" in name else 0.02)
        self.lm_head.weight = self.model["decoder"].embed_tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.lm_head(self.model["decoder"](input_ids, attention_mask))


def rows(tokens: NDArray[np.int64], offset: int = 0) -> NDArray[np.int64]:
    """Consecutive pieces of CONTEXT tokens, (rows, CONTEXT); what is left over is dropped."""
    count = (len(tokens) - offset) // CONTEXT
    return tokens[offset : offset + count * CONTEXT].reshape(count, CONTEXT)


def mean_loss(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Mean of -log p(token | the tokens before it), nats."""
    logits = model(input_ids, torch.ones_like(input_ids))
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def train(model: nn.Module, tokens: NDArray[np.int64], held_out: Tensor) -> None:
    """Fit in place and leave the model in inference mode."""
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * (len(rows(tokens, CONTEXT - 1)) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    for epoch in range(EPOCHS):
        model.train()
        pieces = torch.from_numpy(rng.permutation(rows(tokens, int(rng.integers(CONTEXT)))))
        for batch in pieces[: steps // EPOCHS * BATCH].split(BATCH):
            loss = mean_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            print(f"epoch {epoch + 1}: {loss:.3f}, held out {mean_loss(model, held_out):.3f}", flush=True)


def export(model: nn.Module, path: Path) -> None:
    """Write opset 17 with dynamic batch and length."""
    sample = torch.zeros(2, 8, dtype=torch.int64)
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        model,
        (sample, torch.ones_like(sample)),
        path,
        dynamo=False,  # keeps the modules' names in the nodes' names
        opset_version=17,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": axes},
    )
    onnx.checker.check_model(path, full_check=True)


@torch.no_grad()
def exported_perplexity(model: nn.Module, path: Path, held_out: Tensor) -> float:
    """Perplexity of the exported file, whose outputs must agree with the model's."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": held_out.numpy(), "attention_mask": np.ones(held_out.shape, dtype=np.int64)}
    (logits,) = session.run(["logits"], feeds)
    np.testing.assert_allclose(logits, model(held_out, torch.ones_like(held_out)), rtol=0, atol=1e-3)
    scores = torch.from_numpy(logits)[:, :-1].flatten(0, 1)
    return float(functional.cross_entropy(scores, held_out[:, 1:].flatten()).exp())


def unigram_perplexity(tokens: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
    """Of the model that knows only how often each token occurs; every count plus one."""
    counts = np.bincount(tokens, minlength=VOCABULARY) + 1
    return float(np.exp(-np.log(counts / counts.sum())[held_out].mean()))


def main() -> None:
    """Writes tokenizer.json, model.onnx, heldout.txt and heldout.npz."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums round alike whatever the number of cores
    train_texts, held_out_texts = documents()
    tokenizer = train_bpe(train_texts, VOCABULARY, SPECIAL)
    tokenizer.save(FOLDER / "tokenizer.json")
    tokens = np.array(tokenizer.encode("\n\n".join(train_texts)), dtype=np.int64)
    held_out_text = "\n\n".join(held_out_texts) + "\n"
    (FOLDER / "heldout.txt").write_text(held_out_text, encoding="utf-8")
    held_out = rows(np.array(tokenizer.encode(held_out_text), dtype=np.int64))
    arrays = {"input_ids": held_out, "attention_mask": np.ones_like(held_out)}
    np.savez_compressed(FOLDER / "heldout.npz", **arrays)
    print(f"{len(tokens)} tokens; held out {held_out.size}")
    print(f"unigram perplexity {unigram_perplexity(tokens, held_out[:, 1:]):.1f}")
    model = Opt()
    train(model, tokens, torch.from_numpy(held_out))
    export(model, FOLDER / "model.onnx")
    perplexity = exported_perplexity(model, FOLDER / "model.onnx", torch.from_numpy(held_out))
    print(f"held-out perplexity {perplexity:.2f}")


if __name__ == "__main__":
    main()
