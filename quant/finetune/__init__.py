from quant.finetune.adaquant import AdaQuant
from quant.finetune.adaround import AdaRound
from quant.finetune.algorithms import algorithm_for
from quant.finetune.bias import corrected_bias
from quant.finetune.coordinate_descent import coordinate_descent
from quant.finetune.gptq import Gptq
from quant.finetune.grid import RoundingGrid, UniformGrid, repeat_blocks
from quant.finetune.layer import Algorithm, LayerProblem, LayerResult, finetune_layer
from quant.finetune.moments import InputMoments
from quant.finetune.quadratic import Quadratic

__all__ = [
    "AdaQuant",
    "AdaRound",
    "Algorithm",
    "Gptq",
    "InputMoments",
    "LayerProblem",
    "LayerResult",
    "Quadratic",
    "RoundingGrid",
    "UniformGrid",
    "algorithm_for",
    "coordinate_descent",
    "corrected_bias",
    "finetune_layer",
    "repeat_blocks",
]
