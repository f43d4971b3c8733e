"""Writes the exported models of the parity tests: run by hand, with torch 2.13 and onnxscript 0.7.

python tests/parity/make_models.py [names ...]

Weights are random but seeded, and channels differ in size as those of trained networks do. Every file
stays below 60 KB.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = Path(__file__).parent / "models"
LARGEST_BYTES = 60_000


def convolution(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Conv without bias, then BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 8)
        self.first, self.second = convolution(8, 16, stride=2), convolution(16, 16)
        self.shortcut = convolution(8, 16, kernel=1, stride=2)
        self.head = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        x = F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))
        return self.head(F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1).flatten(1))


class Inverted(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, width: int, expanded: int) -> None:
        super().__init__()
        self.expand, self.project = convolution(width, expanded, 1), convolution(expanded, width, 1)
        self.depthwise = convolution(expanded, expanded, groups=expanded)
        self.squeeze, self.excite = nn.Conv2d(expanded, 4, 1), nn.Conv2d(4, expanded, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(inner, 1)))
        return x + self.project(inner * F.hardsigmoid(self.excite(gate)))


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 8, stride=2)
        self.blocks = nn.Sequential(Inverted(8, 16), Inverted(8, 24))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(F.relu6(self.stem(image)))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = convolution(1, 6), convolution(6, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.merge, self.refine = convolution(12, 6), convolution(9, 4)
        self.deep = nn.Conv2d(12, 3, 1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        down = F.relu(self.down(image))
        bottom = F.relu(self.bottom(F.max_pool2d(down, 2)))
        merged = F.leaky_relu(self.merge(torch.cat([self.up(bottom), down], 1)), 0.1)
        deep = F.interpolate(self.deep(bottom), scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.out(F.relu(self.refine(torch.cat([merged, deep], 1)))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = (
            part.reshape(batch, steps, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        if self.causal:
            allowed = torch.ones(steps, steps, dtype=torch.bool).tril()
            scores = torch.where(allowed, scores, torch.tensor(-100.0))
        mixed = torch.softmax(scores, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, width))


class Block(nn.Module):
    """A pre-normalised transformer block."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads=2, causal=causal)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(12, 16)
        self.position = nn.Parameter(torch.randn(1, 6, 16))
        self.blocks = nn.Sequential(Block(16, False), Block(16, False))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, patches: Tensor) -> Tensor:
        x = self.blocks(self.patch(patches) + self.position)
        return self.head(self.norm(x)[:, 0])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 16), nn.Embedding(6, 16)
        self.block, self.norm = Block(16, True), nn.LayerNorm(16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.norm(self.block(x)) @ self.tokens.weight.T


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.cell = cell(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, series: Tensor) -> Tensor:
        states, _ = self.cell(torch.tanh(self.encode(series)))
        return self.head(F.relu(states[:, -1]))


class UnrolledGRU(nn.Module):
    """One cell, whose weights and biases every step reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 24), nn.Linear(4, 24)
        self.head = nn.Linear(8, 2)

    def forward(self, series: Tensor) -> Tensor:
        state = series[:, 0].new_zeros(series.shape[0], 8)
        for step in range(4):
            reset, update, new = self.outer(series[:, step]).chunk(3, 1)
            inner_reset, inner_update, inner_new = self.inner(state).chunk(3, 1)
            reset, update = torch.sigmoid(reset + inner_reset), torch.sigmoid(update + inner_update)
            state = (1 - update) * torch.tanh(new + reset * inner_new) + update * state
        return self.head(state)


class Detector(nn.Module):
    """Two scales of boxes and scores, decoded as YOLO does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = convolution(3, 8, stride=2), convolution(8, 12, stride=2)
        self.heads = nn.ModuleList([nn.Conv2d(8, 14, 1), nn.Conv2d(12, 14, 1)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = F.relu(self.stem(image))
        features = (fine, F.relu(self.down(fine)))
        rows = [
            head(x).reshape(x.shape[0], 2, 7, -1).permute(0, 1, 3, 2).reshape(x.shape[0], -1, 7)
            for head, x in zip(self.heads, features, strict=True)
        ]
        centre, size, scores = torch.cat(rows, 1).split([2, 2, 3], -1)
        centre, size = torch.sigmoid(centre) * 2 - 0.5, torch.sigmoid(size) ** 2 * 4
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)
        return corners[..., :4], torch.sigmoid(scores)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 24), nn.Hardtanh(), nn.Linear(24, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layers(x), -1)


class Audio(nn.Module):
    """Convolutions over time with instance normalisation and strided pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 8, 9, stride=2), nn.Conv1d(8, 12, 5, dilation=2)
        self.norm, self.third = nn.InstanceNorm1d(8, affine=True), nn.Conv1d(12, 12, 3, groups=3)
        self.head = nn.Conv1d(12, 4, 1)

    def forward(self, wave: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(F.pad(wave, (4, 4), mode="reflect"))))
        x = F.avg_pool1d(F.elu(self.second(x)), 2)
        return self.head(F.pad(self.third(x), (1, 1))).max(-1).values


class Swish(nn.Module):
    """EfficientNet's pieces: x sigmoid(x), squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = convolution(3, 12), convolution(12, 12, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project = convolution(12, 12, 1)
        self.head = nn.Linear(12, 7)

    def forward(self, image: Tensor) -> Tensor:
        stem = F.silu(self.stem(image))
        x = F.silu(self.depthwise(stem))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = self.project(x) + stem
        return F.log_softmax(self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)), 1)


class Branches(nn.Module):
    """A condition and a loop on the data: If and Loop, whose bodies read outer values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(x))
        if bool(x.mean() > 10.0):  # noqa: SIM108, the exporter makes an If of a statement alone
            x = x * 2.0
        else:
            x = x + 0.5
        for _ in range(int(x.shape[0]) % 3 + 1):
            x = torch.tanh(self.body(x))
        return self.head(x)


@dataclass(frozen=True)
class Export:
    """How one file is made: the module, an example of its input, the exporter and the opset."""

    module: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    opset: int
    dynamo: bool = False
    scripted: bool = False


def numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def tokens() -> Tensor:
    return torch.randint(20, (2, 6))


IMAGE = numbers(2, 3, 12, 12)
EXPORTS = {
    "residual_script13": Export(ResidualCNN, IMAGE, 13),
    "residual_dynamo18": Export(ResidualCNN, IMAGE, 18, dynamo=True),
    "mobilenet_script17": Export(MobileNet, IMAGE, 17),
    "mobilenet_dynamo18": Export(MobileNet, IMAGE, 18, dynamo=True),
    "unet_script11": Export(UNet, numbers(2, 1, 8, 8), 11),
    "encoder_script17": Export(Encoder, numbers(2, 6, 12), 17),
    "encoder_dynamo21": Export(Encoder, numbers(2, 6, 12), 21, dynamo=True),
    "decoder_script14": Export(Decoder, tokens, 14),
    "decoder_dynamo20": Export(Decoder, tokens, 20, dynamo=True),
    "lstm_script15": Export(lambda: Recurrent(nn.LSTM), numbers(2, 5, 6), 15),
    "gru_script12": Export(lambda: Recurrent(nn.GRU), numbers(2, 5, 6), 12),
    "gru_unrolled_dynamo18": Export(UnrolledGRU, numbers(2, 4, 4), 18, dynamo=True),
    "detector_script16": Export(Detector, IMAGE, 16),
    "mlp_script9": Export(MLP, numbers(2, 16), 9),
    "audio_script10": Export(Audio, numbers(2, 1, 64), 10),
    "swish_dynamo19": Export(Swish, IMAGE, 19, dynamo=True),
    "branches_script16": Export(Branches, numbers(2, 8), 16, scripted=True),
}


def structured(module: nn.Module) -> nn.Module:
    """Channels of different size, statistics of a network that has seen data, a few large weights."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.3, 1.5)
                part.weight.uniform_(0.4, 1.6)
                part.bias.normal_(0, 0.3)
            elif isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                spread = torch.exp(0.5 * torch.randn(part.weight.shape[0]))
                part.weight.mul_(spread.reshape(-1, *[1] * (part.weight.ndim - 1)) * 1.5)
    return module.eval()


def write(name: str, export: Export) -> Path:
    """Exports one model with a free batch axis."""
    torch.manual_seed(sum(map(ord, name)))
    module, example = structured(export.module()), export.example()
    path = FOLDER / f"{name}.onnx"
    if export.dynamo:
        batch = torch.export.Dim("batch")
        program = torch.onnx.export(
            module, (example,), dynamo=True, opset_version=export.opset, dynamic_shapes=({0: batch},)
        )
        model = program.model_proto
    else:
        module = torch.jit.script(module) if export.scripted else module
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=False,
            opset_version=export.opset,
            do_constant_folding=not export.scripted,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["input"],
            dynamic_axes={"input": {0: "batch"}},
        )
        model = onnx.load(path)
    return save(strip(model), path)


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what tells where and by whom the file was made."""
    model.ClearField("metadata_props")
    for part in (model.graph, *model.functions):
        part.ClearField("doc_string")
        for item in (*part.node, *part.value_info):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size} bytes, more than {LARGEST_BYTES}; make it narrower")
    return path


def main(names: Iterable[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    warnings.filterwarnings("ignore")
    for name in names or EXPORTS:
        path = write(name, EXPORTS[name])
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
