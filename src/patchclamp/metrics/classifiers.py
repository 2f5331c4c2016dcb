"""The probes themselves: a logistic and a small neural classifier, and what guessing gets."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

HIDDEN = 64
ITERATIONS = {"linear": 2000, "mlp": 200}


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a trained probe does on held-out rows."""

    correct: Any
    """Whether each row is classified right."""
    loss: float
    """Mean cross-entropy, in nats."""
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of rows classified right."""
        return float(np.mean(self.correct))


def _linear(_: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=ITERATIONS["linear"])


def _mlp(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((HIDDEN,), early_stopping=True, max_iter=ITERATIONS["mlp"], random_state=seed)


PROBES: dict[str, Callable[[int], Any]] = {"linear": _linear, "mlp": _mlp}
"""Each probe by name: logistic regression (L2, C = 1), and one hidden layer of 64 units stopped early."""


def fit(name: str, scale: tuple[Any, Any], train: tuple[Any, Any], test: tuple[Any, Any], seed: int) -> Fitted:
    """Train a probe and try it on held-out rows.

    Args:
        name: Which probe.
        scale: Means and deviations of the features, ``[d]``: those of the untouched data for every version of it, so that
            the rounding error which an erasure leaves along its direction is not blown up into a feature.
        train: Rows ``[row, d]`` and classes.
        test: Likewise.
        seed: For the MLP.
    """
    from sklearn.exceptions import ConvergenceWarning

    mean, deviation = scale
    model = PROBES[name](seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the result
        model.fit((train[0] - mean) / deviation, train[1])
    with np.errstate(divide="ignore"):
        logs = np.log(model.predict_proba((test[0] - mean) / deviation))
    columns = np.searchsorted(model.classes_, test[1])
    known = model.classes_[np.minimum(columns, len(model.classes_) - 1)] == test[1]
    own = np.where(known, logs[np.arange(len(columns)), np.minimum(columns, len(model.classes_) - 1)], -np.inf)
    return Fitted(
        model.classes_[logs.argmax(1)] == test[1], -float(own.mean()), bool(np.max(model.n_iter_) < ITERATIONS[name])
    )


def scale_of(rows: Any) -> tuple[Any, Any]:
    """Means and deviations of the features of ``[row, d]``; the deviation of a constant feature is 1."""
    deviation = rows.std(0)
    return rows.mean(0), np.where(deviation > 1e-12 * np.abs(rows).max(0), deviation, 1.0)


def guess(train: Any, test: Any) -> tuple[float, float]:
    """Accuracy of always saying the training rows' most frequent class, and the loss of saying their frequencies."""
    classes, counts = np.unique(train, return_counts=True)
    shares = counts / counts.sum()
    own = shares[np.searchsorted(classes, test)]
    return float((test == classes[counts.argmax()]).mean()), -float(np.log(own).mean())
