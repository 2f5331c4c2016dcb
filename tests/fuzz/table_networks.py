"""Ordinary calls of the polytope lens, on a tiny ReLU network."""

from typing import Any

import torch

import patchclamp as pc
from tests.fuzz import world
from tests.fuzz.ordinary import Beside, Ordinary
from tests.fuzz.table_running import CUT

POINTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MORE = 3 * torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
THREE = {"axes": None, "points": POINTS[3:6]}
NEAR = 0.1 * POINTS.tanh()
A, B = -3 * torch.ones(3, dtype=torch.float64), torch.tensor([3.0, 2.0, 3.0], dtype=torch.float64)
BOX = ((-3.0, 3.0), (-3.0, 3.0))
CLASSES = [i % 3 for i in range(24)]
KINDS = ("pgd", "same class", "other class", "sign", "gauss")


def of_network(name: str, given: dict[str, Any], other: dict[str, Any], **more: Any) -> Ordinary:
    """A method of the tiny network."""
    return Ordinary(getattr(world.network(), name), given, {**other, "progress": False}, says=getattr(pc.Model, name),
                    inert={**CUT, "dtype": "precision", "limit": "a bound", **more.pop("inert", {})}, **more)  # fmt: skip


def methods() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    line, flat = world.network().segment(A, B), world.network().plane(axes=(POINTS[0], POINTS[1], POINTS[2]), box=BOX)
    cut = {"dtype": "float64", "limit": 900}
    between = {"axes": (POINTS[0], POINTS[1], POINTS[2]), "box": BOX}
    shifted = {
        "axes": (POINTS[3], POINTS[4], POINTS[5]),
        "box": ((-1.0, 1.0), (-2.0, 2.0)),
        "start": "2:out",
        "names": Beside(["p", "q", "r"], THREE),
    }
    start = {"start": "2"}
    return {
        "Model.segment": of_network("segment", {"a": A, "b": B},
                                    {"a": B + 1, "b": A + 2, "method": "sampled", "samples": Beside(50, {"method": "sampled", "samples": 3}), "box": (-3.0, 3.0), "start": "2:out", **cut},
                                    inert={"box": "a bound"}),
        "Model.crossings": of_network("crossings", {"starts": POINTS, "ends": MORE}, {"start": "2:out", "starts": MORE.flip(0), "ends": 2 * POINTS, **cut}),
        "Model.affine_map": of_network("affine_map", {"x": POINTS[0]}, {"start": "2:out", "x": MORE[1], "dtype": "float64"}, inert={"soft": "ReLU has no soft gate"}),
        "Model.region_maps": of_network("region_maps", {"line": line}, {"line": world.network().segment(B + 1, A)}),
        "Model.neighbour_distances": of_network("neighbour_distances", {"line": line}, {"line": world.network().segment(B + 1, A)}),
        "Model.spline_codes": of_network("spline_codes", {"inputs": POINTS}, {"inputs": MORE, "sites": "1:in", "labels": CLASSES},
                                         inert={"at": "inputs have no positions"}),
        "Model.soft_codes": of_network("soft_codes", {"inputs": POINTS, "beta": 1.0},
                                       {"inputs": MORE, "sites": "1:in", "labels": CLASSES, "beta": 0.25, "name": Beside("silu", {"beta": None, "name": "gelu"})}, inert={"at": "inputs have no positions"}),
        "Model.cluster": of_network("cluster", {"inputs": POINTS, "layer": "1", "labels": CLASSES, "algorithms": ("k-means",)},
                                    {"inputs": MORE, "layer": "3", "labels": CLASSES[::-1], "at": "all", "name": "silu", "others": {"more": POINTS}, "algorithms": ("ward",),
                                     "k": 5, "least": Beside(12, {"algorithms": ("hdbscan",)}), "pca": 1, "examples": [str(i) for i in range(24)],
                                     "groups": [i // 4 for i in range(24)], "seed": 5},
                                    inert={"at": "inputs have no positions"}),
        "Model.plane": of_network("plane", between, {**shifted, "points": Beside(POINTS[:3], THREE), "max_regions": 900, "force": True},
                                  inert={"max_regions": "a bound", "force": "lifts a bound"}),
        "Model.raster": of_network("raster", {**between, "lines": 5},
                                   {**shifted, "points": Beside(POINTS[:3], THREE), "lines": 6, "method": "sampled", "samples": Beside(50, {"method": "sampled", "samples": 9})}),
        "Model.region_counts": of_network("region_counts", {"plane": flat, "samples": 9}, {"plane": world.network().plane(axes=shifted["axes"], box=BOX), "samples": 20}),
        "Model.boundaries": of_network("boundaries", {"points": POINTS[:4]}, {"start": "2:out", "points": MORE[:4], "radii": (0.5, 2.0), "dtype": "float64"}),
        "Model.radial_density": of_network("radial_density", {"points": POINTS},
                                           {"start": "2:out", "points": MORE, "centre": [0.5, 0.5, 0.5], "edges": [0.0, 1.0, 2.0], "seed": 5, **cut}),
        "Model.scaling": of_network("scaling", {"inputs": POINTS, "sites": "1:out", "factors": (0.5, 2.0)},
                                    {"inputs": MORE, "sites": "3:out", "factors": (0.1, 9.0), "labels": CLASSES, "controls": ("noise",), "seed": 5},
                                    inert={"at": "inputs have no positions"}),
        "Model.attack": of_network("attack", {"points": POINTS[:5], "labels": CLASSES[:5], "eps": 0.5, "steps": 3},
                                   {"points": MORE[:5], "labels": [2, 2, 2, 2, 2], "eps": 2.0, "method": Beside("fgsm", {"rate": 0.01}), "norm": "l2", "steps": Beside(1, {"rate": 0.01}), "rate": 0.01,
                                    "box": Beside((-0.1, 0.1), {"points": NEAR[:5]}), "seed": 5, "lower": True}),
        "Model.adversarial_paths": of_network("adversarial_paths", {"points": POINTS, "labels": CLASSES, "steps": 2, "kinds": KINDS},
                                              {"points": MORE, "labels": CLASSES[::-1], "eps": 2.0, "norm": "l2", "kinds": ("pgd",), "steps": Beside(5, {"rate": 0.01}), "rate": 0.001,
                                               "box": Beside((-0.1, 0.1), {"points": NEAR}), "clip": Beside(False, {"points": NEAR, "box": (-0.1, 0.1)}), "seed": 5, "limit": 900}),
        **start_lines(start),
    }  # fmt: skip


def start_lines(_: dict[str, Any]) -> dict[str, Ordinary]:
    """Functions of the polytope package."""
    p = pc.polytopes
    z, codes = MORE, {"a": MORE > 0, "b": POINTS > 0}
    others = {"a": MORE < 1, "b": POINTS > 1}
    first, second = (
        p.AffineMap(torch.eye(3), torch.ones(3), "exact"),
        p.AffineMap(2 * torch.eye(3), torch.ones(3), "exact"),
    )
    both = {"labels": CLASSES, "algorithms": ("k-means",)}
    return {
        "polytopes.activation": Ordinary(p.activation, {"name": "relu"}, {"name": "silu"}),
        "polytopes.beta_code": Ordinary(p.beta_code, {"z": z, "beta": 1.0}, {"z": POINTS, "beta": 0.25}),
        "polytopes.swish": Ordinary(p.swish, {"z": z, "beta": 1.0}, {"z": POINTS, "beta": 0.25}),
        "polytopes.map_distance": Ordinary(p.map_distance, {"first": first, "second": second}, {"first": p.AffineMap(-torch.eye(3), torch.ones(3), "exact"), "second": first}),
        "polytopes.code_direction": Ordinary(p.code_direction, {"codes_a": codes, "codes_b": others}, {"codes_a": others, "codes_b": codes}),
        "polytopes.cluster": Ordinary(
            p.cluster, {"preactivations": z, "activations": z.relu(), **both},
            {"preactivations": MORE.flip(0), "activations": MORE.flip(0).relu(), "labels": CLASSES[::-1], "name": "silu", "others": {"more": POINTS},
             "algorithms": ("ward",), "k": 5, "least": Beside(12, {"algorithms": ("hdbscan",)}), "pca": 1, "examples": [str(i) for i in range(24)],
             "groups": [i // 4 for i in range(24)], "seed": 5, "progress": False}, inert=CUT),
        "polytopes.spline_codes": Ordinary(p.spline_codes, {"model": world.network(), "inputs": POINTS}, {"inputs": MORE, "sites": "1:in", "labels": CLASSES, "progress": False},
                                           inert={**CUT, "at": "inputs have no positions"}),
        "polytopes.soft_codes": Ordinary(p.soft_codes, {"model": world.network(), "inputs": POINTS, "beta": 1.0}, {"inputs": MORE, "sites": "1:in", "labels": CLASSES, "beta": 0.25, "name": Beside("silu", {"beta": None, "name": "gelu"}), "progress": False},
                                         inert={**CUT, "at": "inputs have no positions"}),
        "polytopes.NearestLinear": Ordinary(_fitted, {"d_in": 3, "d_out": 3, "regions": 4}, {"regions": 3, "rank": 1, "learn_points": True, "neighbours": 2, "temperature": 5.0, "seed": 5}, says=p.NearestLinear),
        "polytopes.Network": Ordinary(lambda module: p.Network(module).run(POINTS), {"module": world.network().module}, {"module": torch.nn.Sequential(torch.nn.Linear(3, 3)).double().eval()}, says=p.Network),
    }  # fmt: skip


def _fitted(**how: Any) -> Any:
    made = pc.polytopes.NearestLinear(**how).double()
    made.place(POINTS).fit(POINTS, MORE, epochs=1)
    return made(POINTS).detach()
