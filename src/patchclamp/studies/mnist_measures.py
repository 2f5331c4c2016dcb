"""What is measured of one trained network: every stage, every dose, and what decides the loss."""

import pandas as pd
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.studies import digits
from patchclamp.studies.mnist_tables import Response, respond
from patchclamp.studies.mnist_vectors import Gated, activations, gates, head_aligned, stages, vectors

COEFFICIENTS = (0.25, 0.4, 0.5, 0.6, 0.75, 1.0, 1.5)
UP, DOWN = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0), 60.0
"""Head-aligned vectors raise a's logit by one of these and lower b's by so much that it is out of the race."""
PICTURES = tuple(f"image {number}" for number in range(5))
PAIR = (3, 1)


def training_row(net: nn.Sequential, data: digits.Images, history: digits.TrainingHistory) -> pd.DataFrame:
    """How a network was trained, and how sure it is."""
    loss, accuracy = digits.evaluate(net, data.test, data.test_labels)
    seconds = sum(history.seconds) / len(history.seconds)
    row = {"epochs": len(history.loss), "loss": loss, "accuracy": accuracy, "margin": margin(net, data.test)}
    return pd.DataFrame([{**row, "seconds an epoch": seconds}])


def margin(net: nn.Sequential, pixels: Tensor) -> float:
    """Mean distance of the two highest logits: how sure a network is."""
    two = activations(net, len(net) - 1, pixels).topk(2, dim=-1).values
    return float((two[:, 0] - two[:, 1]).mean())


def posts_stage(kind: digits.Kind, net: nn.Sequential) -> int:
    """Where the posts add: after the first layer of the fully connected network, before the head of the residual one."""
    return 0 if kind == "mlp" else len(net) - 2


def measure_network(
    kind: digits.Kind, net: nn.Sequential, data: digits.Images, rows: int
) -> tuple[dict[str, pd.DataFrame], dict[str, Response]]:
    """Every stage at coefficient 1, every dose, and the full arrays at the posts' stage."""
    stage_rows, dose_rows, responses = [], [], {}
    last, posts = len(net) - 2, posts_stage(kind, net)
    for stage in stages(net, data.test):
        hidden = activations(net, stage, data.train)
        unit_vectors = {name: vectors(name, net, stage, data, hidden) for name in ("image 0", "mean")}
        for name, vector in unit_vectors.items():
            pixels, labels = _some(data, 0 if stage == posts else rows, stage, last)
            response = respond(net, stage, pixels, labels, vector)
            columns = {"stage": stage, "vector": name, "norm": _norm(vector), "images": len(pixels)}
            stage_rows.append({**columns, **response.summary()})
            if stage == posts:
                responses[name] = response
        if stage > last:  # after the head: the same shift of logits as before it
            continue
        pixels, labels = _some(data, rows, stage, last)
        plan: list[tuple[str, Gated, float, Tensor]] = [
            *(("image 0", "none", c, c * unit_vectors["image 0"]) for c in COEFFICIENTS),
            *(("mean", gate, c, c * unit_vectors["mean"]) for gate in _gates_at(stage, last) for c in COEFFICIENTS),
        ]
        if stage == last:
            plan += [("head-aligned", "none", up, head_aligned(net, up, DOWN)) for up in UP]
        tests = {gate: gates(gate, net, stage, data, hidden) for gate in dict.fromkeys(row[1] for row in plan)}
        for name, gate, coefficient, vector in plan:
            summary = respond(net, stage, pixels, labels, vector, tests[gate]).summary()
            columns = {"stage": stage, "vector": name, "gate": gate, "coefficient": coefficient, "norm": _norm(vector)}
            dose_rows.append({**columns, "images": len(pixels), **summary})
    return {"stages": pd.DataFrame(stage_rows), "doses": pd.DataFrame(dose_rows)}, responses


def _some(data: digits.Images, rows: int, stage: int, last: int) -> tuple[Tensor, Tensor]:
    """Test images and labels: ``rows`` of them, evenly spread, if more than the head follows the stage; 0 stands for all."""
    step = max(1, len(data.test) // rows) if rows and stage < last else 1
    return data.test[::step], data.test_labels[::step]


def _gates_at(stage: int, last: int) -> tuple[Gated, ...]:
    return ("none", "code", "activation", "verdict") if stage == last else ("none", "code", "activation")


def _norm(vector: Tensor) -> float:
    """Mean length of the 90 vectors between two classes."""
    return float(vector.norm(dim=-1).sum() / (len(vector) * (len(vector) - 1)))


def deciding_rows(kind: digits.Kind, net: nn.Sequential, data: digits.Images, rows: int) -> pd.DataFrame:
    """The posts' experiment with five images and the class means."""
    stage, rows_of_table = posts_stage(kind, net), []
    pixels, labels = _some(data, rows, stage, len(net) - 2)
    mean_margin = margin(net, data.test)
    for name in (*PICTURES, "mean"):
        summary = respond(net, stage, pixels, labels, vectors(name, net, stage, data)).summary()
        rows_of_table.append({"stage": stage, "vector": name, "images": len(pixels), "margin": mean_margin, **summary})
    return pd.DataFrame(rows_of_table)


def pair_rows(net: nn.Sequential, data: digits.Images) -> pd.DataFrame:
    """Loss of 3-1 on test images without b, by stage and vector, through ``pc.Add``."""
    a, b = PAIR
    model, mask = pc.wrap(net), data.test_labels != b
    pixels, labels, rows = data.test[mask], data.test_labels[mask], []
    for stage in stages(net, pixels):
        for name in (*PICTURES, "mean"):
            edit = pc.Add(vectors(name, net, stage, data)[a, b], site=f"{stage}:out")
            logits = torch.cat([model.run(part, edit).logits for part in pixels.split(2500)])
            loss = float(nn.functional.cross_entropy(logits, labels))
            rows.append({"stage": stage, "vector": name, "loss": loss})
    return pd.DataFrame(rows)
