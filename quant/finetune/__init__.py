from quant.finetune.bias import corrected_bias
from quant.finetune.grid import RoundingGrid, UniformGrid, repeat_blocks
from quant.finetune.moments import InputMoments
from quant.finetune.quadratic import Quadratic

__all__ = ["InputMoments", "Quadratic", "RoundingGrid", "UniformGrid", "corrected_bias", "repeat_blocks"]
