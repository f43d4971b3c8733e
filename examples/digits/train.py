"""Train the digits network and write the model, calibration and test files beside this script.

    pip install -e '.[train]'
    python examples/digits/train.py

Takes a minute on a CPU. The seed fixes the result, but for how a machine or torch version rounds.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(__file__).parent
SEED = 1
TRAIN_IMAGES = 1297  # the last 500 of the 1797 images are the test set
CALIBRATION_IMAGES = 256
EPOCHS = 26
BATCH_SIZE = 64
LEARNING_RATE = 6e-3
CHANNEL_SPREAD = 0.7  # standard deviation of the logarithm of the channels' factors
STEM_CHANNELS = 16
BLOCKS = ((32, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (192, 2), (192, 1))
"""Output channels and stride of each depthwise-separable block."""


def conv_block(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Convolution, BatchNorm and ReLU, padded to keep the image's size at stride 1."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


def depthwise_separable(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution across them."""
    depthwise = conv_block(inputs, inputs, size=3, stride=stride, groups=inputs)
    pointwise = conv_block(inputs, outputs, size=1)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def digits_cnn() -> nn.Module:
    """MobileNet-like classifier, (N, 1, 32, 32) -> (N, 10), about 120 000 parameters."""
    layers = OrderedDict(stem=conv_block(1, STEM_CHANNELS, size=3))
    inputs = STEM_CHANNELS
    for number, (outputs, stride) in enumerate(BLOCKS, start=1):
        layers[f"block{number}"] = depthwise_separable(inputs, outputs, stride)
        inputs = outputs
    layers.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return nn.Sequential(OrderedDict(layers, classifier=nn.Linear(inputs, 10)))


def load_images() -> tuple[Tensor, Tensor]:
    """All images, (1797, 1, 32, 32) float32, about zero mean and unit variance; labels, int64."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    return (images - 0.3) / 0.35, torch.tensor(digits.target)


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift by up to 3 pixels, vary the contrast by 10 %, add a little noise."""
    shifted = torch.roll(images, rng.integers(-3, 4, size=2).tolist(), dims=(2, 3))
    contrast = 1 + 0.1 * torch.randn(len(images), 1, 1, 1)
    return shifted * contrast + 0.05 * torch.randn_like(images)


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Fit in place and leave the model in inference mode."""
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            logits = model(augment(images[batch], rng))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    model.eval()


@torch.no_grad()
def spread_channels(model: nn.Module) -> None:
    """Make the channels' ranges uneven, in place, without changing the function computed.

    Since ReLU(f x) = f ReLU(x) for f > 0, each BatchNorm's output channels are multiplied by
    log-normal factors of mean 1 and the next convolution divides by them. Such ranges are usual
    in MobileNets trained on large data, and are what makes those hard to quantize.
    """
    generator = torch.Generator().manual_seed(SEED)
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm, conv in zip(norms[:-1], convs[1:], strict=True):
        factors = torch.exp(CHANNEL_SPREAD * torch.randn(norm.num_features, generator=generator))
        factors /= factors.mean()
        norm.weight *= factors
        norm.bias *= factors
        is_depthwise = conv.groups > 1
        conv.weight /= factors.view((-1, 1, 1, 1) if is_depthwise else (1, -1, 1, 1))


def export(model: nn.Module, path: Path) -> None:
    """Write opset 17 with the BatchNormalization nodes kept and a dynamic batch axis."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 32, 32),),
        path,
        dynamo=False,  # torch.export cannot write this network at opset 17
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold the BatchNorms
        do_constant_folding=False,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
    )
    onnx.checker.check_model(path, full_check=True)


@torch.no_grad()
def exported_accuracy(model: nn.Module, path: Path, images: Tensor, labels: Tensor) -> float:
    """Accuracy of the exported file, whose outputs must agree with the model's."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": images.numpy()})
    np.testing.assert_allclose(logits, model(images).numpy(), rtol=0, atol=1e-4)
    return float(np.mean(logits.argmax(axis=1) == labels.numpy()))


if __name__ == "__main__":
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums round alike whatever the number of cores
    all_images, all_labels = load_images()
    train_images, test_images = all_images[:TRAIN_IMAGES], all_images[TRAIN_IMAGES:]
    test_labels = all_labels[TRAIN_IMAGES:]
    cnn, cnn_path = digits_cnn(), FOLDER / "digits_cnn.onnx"
    train(cnn, train_images, all_labels[:TRAIN_IMAGES])
    spread_channels(cnn)
    export(cnn, cnn_path)
    print(f"test accuracy {exported_accuracy(cnn, cnn_path, test_images, test_labels):.3f}")
    chosen = np.random.default_rng(SEED).permutation(TRAIN_IMAGES)[:CALIBRATION_IMAGES]
    np.savez_compressed(FOLDER / "calibration.npz", input=train_images[np.sort(chosen)].numpy())
    np.savez_compressed(FOLDER / "test.npz", input=test_images.numpy(), labels=test_labels.numpy())
