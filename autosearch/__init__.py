"""Search for the best way to quantize an ONNX model after training."""

__version__ = "0.1.0"
