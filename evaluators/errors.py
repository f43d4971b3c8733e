"""What can go wrong in an evaluation, told apart by who has to act."""


class EvaluatorError(ValueError):
    """Anything that an evaluator refuses or fails at."""


class EvaluatorInputError(EvaluatorError):
    """What the evaluator was given is wrong for every candidate: no search can start with it."""


class EvaluationError(EvaluatorError):
    """One model could not be evaluated; others still may.

    The message does not name the model's file, so that the same cause reads the same in every trial.
    """
