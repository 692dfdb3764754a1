"""A linear head with calibrated probabilities: pure numpy, so that using it needs no training
library and its file is data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mesh.core.errors import InvalidInput

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """One question: ``labels`` are the answers.

    With ``knots`` it is binary (``labels[1]`` is the positive answer) and its probability comes
    from an isotonic map of the logit; else a softmax over ``logits / temperature``.
    """

    name: str
    labels: tuple[str, ...]
    weights: Array
    """One row per label; one row alone for a binary head."""
    bias: Array
    temperature: float = 1.0
    knots: Array | None = None
    """Isotonic map: first row logits in rising order, second row probabilities."""

    def __post_init__(self) -> None:
        rows = 1 if self.knots is not None else len(self.labels)
        fits = self.weights.ndim == 2 and self.weights.shape[0] == rows == self.bias.shape[0]
        if self.knots is not None:
            fits = fits and self.knots.ndim == 2 and self.knots.shape[0] == 2
            fits = fits and len(self.labels) == 2
        if not fits or self.temperature <= 0 or len(set(self.labels)) < len(self.labels):
            raise InvalidInput(f"the head {self.name!r} does not fit together", {"head": self.name})

    def logits(self, inputs: Array) -> Array:
        if inputs.shape[1] != self.weights.shape[1]:
            raise InvalidInput(
                f"the head {self.name!r} was trained on {self.weights.shape[1]} inputs, these are "
                f"{inputs.shape[1]}: the embedding model is another one",
                {"head": self.name},
            )
        return np.asarray(inputs @ self.weights.T + self.bias, dtype=np.float32)

    def probabilities(self, inputs: Array) -> Array:
        """One row per input, one column per label; each row adds up to 1."""
        logits = self.logits(inputs)
        if self.knots is not None:
            positive = np.interp(logits[:, 0], self.knots[0], self.knots[1])
            return np.stack([1 - positive, positive], axis=1).astype(np.float32)
        return softmax(logits / self.temperature)

    def arrays(self) -> dict[str, Array]:
        kept = {"weights": self.weights, "bias": self.bias}
        if self.knots is not None:
            kept["knots"] = self.knots
        return {f"{self.name}.{key}": value for key, value in kept.items()}


def head_of(
    name: str, labels: tuple[str, ...], temperature: float, arrays: Mapping[str, Array]
) -> Head:
    """The counterpart of ``Head.arrays``. Raises InvalidInput when a part is missing."""
    try:
        weights, bias = arrays[f"{name}.weights"], arrays[f"{name}.bias"]
    except KeyError as error:
        raise InvalidInput(f"the head {name!r} has no {error}", {"head": name}) from error
    return Head(
        name,
        labels,
        weights.astype(np.float32),
        bias.astype(np.float32),
        temperature,
        arrays.get(f"{name}.knots"),
    )


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def calibration_error(confidence: Array, correct: Array, bins: int = 10) -> float:
    """Expected calibration error, 0 (perfect) to 1 (Naeini et al. 2015)."""
    error = 0.0
    edges = np.minimum((confidence * bins).astype(int), bins - 1)
    for index in range(bins):
        mask = edges == index
        if mask.any():
            gap = abs(float(correct[mask].mean()) - float(confidence[mask].mean()))
            error += gap * float(mask.mean())
    return error
