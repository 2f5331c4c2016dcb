"""The probes themselves: a logistic and a small neural classifier, and what guessing gets."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

HIDDEN = 64
ITERATIONS = {"linear": 2000, "mlp": 500}
"""The largest number of steps of L-BFGS, and of epochs of Adam."""
PATIENCE = 15
"""The number of epochs without a lower loss on validation rows after which the MLP stops."""
VALIDATION = 0.1


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """Rows for a probe."""

    X: Any
    """The features, ``[row, d]``."""
    z: Any
    """The class of each row."""
    groups: Any
    """The group of each row."""


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """The results of a trained probe on held-out rows."""

    correct: Any
    """Whether each row is classified right."""
    loss: float
    """The mean cross-entropy, in nats."""
    converged: bool

    @property
    def accuracy(self) -> float:
        """The share of rows that are classified right."""
        return float(np.mean(self.correct))


def _linear(rows: ProbeRows, _: int) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=ITERATIONS["linear"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the result
        model.fit(rows.X, rows.z)
    return model, bool(np.max(model.n_iter_) < ITERATIONS["linear"])


def _mlp(rows: ProbeRows, seed: int) -> tuple[Any, bool]:
    """Train an MLP: the weights of the epoch with the lowest loss on validation rows (whole groups of them)."""
    from sklearn.neural_network import MLPClassifier

    groups = np.unique(rows.groups)
    validation_groups = np.random.default_rng(seed).permutation(groups)[: max(1, round(VALIDATION * len(groups)))]
    is_validation = np.isin(rows.groups, validation_groups)
    model, classes = MLPClassifier((HIDDEN,), random_state=seed), np.unique(rows.z)
    best, epochs_since_best = np.inf, 0
    best_weights: tuple[list[Any], list[Any]] = ([], [])
    for _ in range(ITERATIONS["mlp"]):
        model.partial_fit(rows.X[~is_validation], rows.z[~is_validation], classes=classes)
        loss = _loss(model, rows.X[is_validation], rows.z[is_validation])
        epochs_since_best += 1
        if loss < best:
            best, epochs_since_best = loss, 0
            best_weights = [weight.copy() for weight in model.coefs_], [weight.copy() for weight in model.intercepts_]
        if epochs_since_best >= PATIENCE:
            break
    model.coefs_, model.intercepts_ = best_weights
    return model, epochs_since_best >= PATIENCE


PROBES: dict[str, Callable[[ProbeRows, int], tuple[Any, bool]]] = {"linear": _linear, "mlp": _mlp}
"""Each probe by name: logistic regression (L2, C = 1), and one hidden layer of 64 units (Adam, stopped early)."""


def fit(name: str, train: ProbeRows, test: ProbeRows, seed: int) -> FittedProbe:
    """Train a probe and try it on held-out rows.

    Args:
        name: The name of the probe.
        train: The rows to fit on.
        test: The held-out rows.
        seed: The seed of the MLP.
    """
    model, converged = PROBES[name](train, seed)
    return FittedProbe(model.predict(test.X) == test.z, _loss(model, test.X, test.z), converged)


def _loss(model: Any, X: Any, z: Any) -> float:
    """Mean cross-entropy in nats; infinite if a class was never seen in training."""
    if not np.isin(z, model.classes_).all():
        return np.inf
    probabilities = model.predict_proba(X)[np.arange(len(z)), np.searchsorted(model.classes_, z)]
    return -float(np.log(np.maximum(probabilities, np.finfo(float).tiny)).mean())


def scale_of(rows: Any) -> tuple[Any, Any]:
    """The means and deviations of the features of ``[row, d]``; the deviation of a constant feature is 1."""
    deviation = rows.std(0)
    return rows.mean(0), np.where(deviation > 1e-12 * np.abs(rows).max(0), deviation, 1.0)


def guess(train: Any, test: Any) -> tuple[float, float]:
    """Compute the accuracy of always saying the training rows' most frequent class, and the loss of saying their frequencies."""
    classes, counts = np.unique(train, return_counts=True)
    shares = counts / counts.sum()
    label_shares = shares[np.searchsorted(classes, test)]
    return float((test == classes[counts.argmax()]).mean()), -float(np.log(label_shares).mean())
