"""The speed of the directions: INLP, R-LACE and LEACE against references, thirty layers against one, and an edit's cost.

INLP's reference is scikit-learn's ``LogisticRegression`` with its defaults, fitted in each round on the projected rows.
R-LACE's is a plain implementation of the published schedule (a gradient step on the projection and on the classifier, then
the projection onto the Fantope by an eigendecomposition), of which a few iterations are timed; 75,000 are extrapolated.
LEACE's is concept-erasure.
"""

import argparse
import statistics
import warnings
from typing import Any

import numpy as np
import torch
from common import Target, cpu_seconds, interleave, ratio, write
from concept_erasure import LeaceFitter
from experiment import Experiment
from scipy.linalg import orth
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from patchclamp.directions import INLP, LEACE, RLACE, MeanDifference, fit_layers

ROWS, WIDTH, RANK = 10_000, 768, 8
PUBLISHED = 75_000
"""Iterations of R-LACE's published schedule."""


def rows(n: int, d: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Power-law spectrum of mean variance ``scale^2``, two classes about 90 % apart, whose variance differs in four directions."""
    g = torch.Generator().manual_seed(0)
    spread = torch.arange(1, d + 1, dtype=torch.float64).rsqrt()
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    way = torch.randn(d, generator=g, dtype=torch.float64) * spread
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=g)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    noise[:, 20:24] *= 1 + labels.unsqueeze(1)
    x = (noise + 1.3 * (2 * labels.unsqueeze(1) - 1) * way / way.norm()) * spread / spread.square().mean().sqrt()
    return (scale * x @ turn).float(), labels


def inlp_reference(x: Tensor, y: Tensor) -> tuple[Any, list[int]]:
    """Directions ``[rank, d]`` of a loop over scikit-learn's classifier, and its iterations."""
    table, basis, steps = x.numpy(), np.zeros((0, x.shape[1]), dtype=np.float32), []
    for _ in range(RANK):
        found = LogisticRegression().fit(table - (table @ basis.T) @ basis, y.numpy())
        steps.append(int(found.n_iter_[0]))
        weight = found.coef_ - (found.coef_ @ basis.T) @ basis
        basis = np.concatenate([basis, weight / np.linalg.norm(weight)]).astype(np.float32)
    return basis, steps


def inlp_published(x: Tensor, y: Tensor) -> np.ndarray:
    """The projection of a loop as it was published: each round's span, their sum's span, and all rows projected by a matrix."""
    table, wide, spans = x.numpy(), x.numpy(), []
    projection = np.eye(x.shape[1])
    for _ in range(RANK):
        found = LogisticRegression().fit(wide, y.numpy())
        own = orth(found.coef_.T)
        spans.append(own @ own.T)
        whole = orth(sum(spans))
        projection = np.eye(x.shape[1]) - whole @ whole.T
        wide = projection.dot(table.T).T
    return projection


def probe(basis: Any, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Held-out accuracy of a linear classifier once the directions are projected out."""
    own = torch.as_tensor(np.asarray(basis)).float()
    (x, y), (x_test, y_test) = train, test
    left, left_test = ((v - (v @ own.T) @ own).numpy() / float(x.std()) for v in (x, x_test))
    return float(LogisticRegression(max_iter=1000).fit(left, y).score(left_test, y_test))


def inlp(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """Eight rounds on rows of mean variance 1 and, for the usual case of an unconverged reference, of larger ones."""
    found: dict[str, Any] = {}
    targets = []
    for name, scale in (("mean variance 1", 1.0), ("standard deviation 20", 20.0)):
        train, test = rows(ROWS, WIDTH, 1, scale), rows(5_000, WIDTH, 2, scale)
        x, y = train
        seconds = interleave(
            {
                "ours": lambda x=x, y=y: INLP().fit(x, y),
                "reference": lambda x=x, y=y: inlp_reference(x, y),
                "published": lambda x=x, y=y: inlp_published(x, y),
            },
            rounds,
        )
        ours, (reference, steps) = INLP().fit(x, y), inlp_reference(x, y)
        accuracy = {
            "before": probe(np.zeros((0, WIDTH)), train, test),
            "ours": probe(ours.directions_, train, test),
            "reference": probe(reference, train, test),
        }
        passes = [line["iterations"] for line in ours.report_["rounds"]]
        found[name] = {"seconds": seconds, "accuracy": accuracy, "iterations": {"ours": passes, "reference": steps}}
        for other in ("reference", "published"):
            faster = ratio(seconds[other], seconds["ours"])
            targets.append(Target(f"INLP, {RANK} rounds, {name}: faster than the {other} loop", faster, 15))
    return found, targets


def fantope(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of trace ``rank`` with eigenvalues in 0..1."""
    values, vectors = torch.linalg.eigh(matrix)
    low, high = float(values.min()) - 1, float(values.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float((values - middle).clamp(0, 1).sum()) > rank else (low, middle)
    return vectors * (values - low).clamp(0, 1) @ vectors.T


def rlace_steps(x: Tensor, y: Tensor, steps: int, batch: int = 128) -> None:
    """Some iterations of the published schedule, the loss's gradients by autograd."""
    d = x.shape[1]
    projection = torch.randn(d, d, requires_grad=True)
    weight = torch.zeros(d, requires_grad=True)
    for _ in range(steps):
        for moved, sign in ((projection, 1.0), (weight, -1.0)):
            chosen = torch.randint(0, len(x), (batch,))
            symmetric = (projection + projection.T) / 2
            logits = (x[chosen] - x[chosen] @ symmetric) @ weight
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y[chosen].float())
            (slope,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                moved += sign * 0.005 * slope
        with torch.no_grad():
            projection.copy_(fantope((projection + projection.T) / 2, 1))


def rlace(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """Rank 1 in closed form, certificate included."""
    x, y = rows(ROWS, WIDTH, 1)
    seconds = interleave(
        {"ours": lambda: RLACE().fit(x, y), "iterations": lambda: rlace_steps(x, y, 3)}, max(rounds, 9)
    )
    own, step = statistics.median(seconds["ours"]), statistics.median(seconds["iterations"]) / 3
    report = RLACE().fit(x, y).report_
    found = {
        "seconds": seconds,
        "iteration": step,
        "extrapolated": PUBLISHED * step,
        **{k: report[k] for k in ("value", "trivial", "gradient", "gradient_before")},
    }
    targets = [
        Target("R-LACE, rank 1, with its certificate", own, 0.1, "s", True),
        Target("the same: faster than 75,000 iterations (extrapolated)", PUBLISHED * step / own, 1000),
    ]
    return found, targets


def leace(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """Width 2048, 4096 rows: the fit alone, and its share of the rate of matrix products."""
    x, y = rows(4096, 2048, 1)
    wide = x.double()
    z = torch.nn.functional.one_hot(y, 2)

    def peer(table: Tensor) -> Any:
        return LeaceFitter.fit(table, z.to(table.dtype)).eraser.proj_left

    contenders = {
        "ours": lambda: LEACE().fit(x, y),
        "concept-erasure": lambda: peer(x),
        "concept-erasure, float64": lambda: peer(wide),
        "product": lambda: wide.T @ wide,
    }
    seconds = interleave(contenders, rounds)
    work = 4096 * 2048**2 + 2048**3 / 3  # half of the product, and a Cholesky factor
    rate = work / statistics.median(seconds["ours"])
    floor = 2 * 4096 * 2048**2 / statistics.median(seconds["product"])
    found = {"seconds": seconds, "flops": work, "rate": rate, "rate of float64 products": floor}
    targets = [
        Target("LEACE, d = 2048: faster than concept-erasure", ratio(seconds["concept-erasure"], seconds["ours"]), 7),
        Target("the same: share of the rate of float64 products", 100 * rate / floor, 50, "%"),
    ]
    return found, targets


def layers(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """Thirty layers of 2,000 rows of width 576 against one."""
    x, y = rows(2_000, 576, 1)
    many = torch.stack([x.roll(layer, 1) for layer in range(30)])
    found, targets = {}, []
    for method in (MeanDifference(), RLACE(), LEACE()):
        name = type(method).__name__
        seconds = interleave(
            {"one": lambda m=method: m.fit(x, y), "thirty": lambda m=method: fit_layers(m, many, y)}, rounds
        )
        found[name] = seconds
        targets.append(Target(f"{name}, 30 layers / one layer", ratio(seconds["thirty"], seconds["one"]), 3, "x", True))
    return found, targets


def applying(pairs: int) -> tuple[dict[str, Any], list[Target]]:
    """An ``erase`` edit at one site of SmolLM2, 128 tokens, against the bare model."""
    experiment = Experiment.load(5)
    model = experiment.model
    x, y = rows(2_000, 576, 1)
    edit = MeanDifference().fit(x, y).erase("resid_post.15")
    ids = torch.randint(0, experiment.config.vocab_size, (1, 128), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def bare() -> Tensor:
        logits: Tensor = model.module(ids, use_cache=False).logits
        return logits

    contenders = {"bare": bare, "erase": lambda: model.run(ids, [edit]).logits}
    interleave(contenders, 2)
    seconds = interleave(contenders, pairs)
    percent = 100 * (ratio(seconds["erase"], seconds["bare"]) - 1)
    return {"seconds": seconds}, [Target("erase at one site: more than a bare forward", percent, 2, "%", True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("only", nargs="*", help="some of: inlp rlace leace layers applying")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cpu_seconds(lambda: MeanDifference().fit(*rows(2_000, 64, 1)))
    parts = {
        "inlp": lambda: inlp(options.rounds),
        "rlace": lambda: rlace(options.rounds),
        "leace": lambda: leace(options.rounds),
        "layers": lambda: layers(options.rounds),
        "applying": lambda: applying(options.pairs),
    }
    measured: dict[str, Any] = {}
    targets: list[Target] = []
    for name in options.only or parts:
        measured[name], rows_of = parts[name]()
        targets += rows_of
    print({k: {m: v for m, v in part.items() if m != "seconds"} for k, part in measured.items()})
    write("directions", measured, targets)


if __name__ == "__main__":
    main()
