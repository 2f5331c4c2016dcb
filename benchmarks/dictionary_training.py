"""A training step of sparse dictionaries beside SAELens, dictionary_learning and sparsify, in CPU seconds of one thread.

``python benchmarks/dictionary_training.py`` makes ``benchmarks/.venv-dictionaries`` (torch, patchclamp and the peers, in the
versions below) and measures in it. A peer that cannot be installed or imported is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HOME = Path(__file__).parent / ".venv-dictionaries"
PEERS = ("sae-lens==6.54.12", "dictionary-learning==0.1.0", "eai-sparsify==1.3.3")
D, WIDTH, K, ROWS = 576, 9216, 32, 4096
WIDTHS = (1152, 1536, 2048, 2304, 3072, 4096, 4608, 6144)
"""Of the job of eight dictionaries."""


def python() -> Path:
    """The environment's interpreter."""
    return HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment() -> None:
    """Install torch, patchclamp and what there is of the peers."""
    if not python().exists():
        venv.create(HOME, with_pip=True)
    install = [str(python()), "-m", "pip", "install", "--quiet", "torch==2.13.0"]
    if subprocess.run([*install, "--editable", str(ROOT)]).returncode:
        sys.exit("torch or patchclamp could not be installed")
    for peer in PEERS:
        if subprocess.run([*install, peer]).returncode:
            print(f"{peer} could not be installed: left out", file=sys.stderr)
    # What peers pull in was built for another torch, and breaks the import of transformers; nothing here needs it.
    subprocess.run([str(python()), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"])


def ours(encoder: Any, batches: list[Any], widths: tuple[int, ...] = (WIDTH,)) -> Callable[[], object]:
    """One step of a job of ours."""
    import torch

    from patchclamp.activations.stream import ActivationStream
    from patchclamp.dictionaries.sgd import SGD
    from patchclamp.dictionaries.training import Job

    rows = torch.cat(batches)
    stream = ActivationStream.from_array(rows, batch_size=ROWS)
    fits = [SGD(encoder, width=width, steps=10_000) for width in widths]
    return stepping(Job.of(stream, fits, 10_000).step, batches)


def stepping(step: Callable[[Any], object], batches: list[Any]) -> Callable[[], object]:
    """A call that takes the next batch."""
    number = iter(range(10**9))
    return lambda: step(batches[next(number) % len(batches)])


def saelens(batches: list[Any], widths: tuple[int, ...] = (WIDTH,)) -> Callable[[], object]:
    """One step of its trainers, as its MultiSAETrainer drives them."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    config = SAETrainerConfig(total_training_samples=10_000 * ROWS, train_batch_size_samples=ROWS, lr=3e-4, lr_end=3e-5)
    saes = {str(w): TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=w, k=K, device="cpu")) for w in widths}
    trainer = MultiSAETrainer(config, saes, dict.fromkeys(saes, "site"), iter(()))

    def step(rows: Any) -> None:
        for one in trainer.trainers.values():
            one.step(rows)
            one.n_training_steps += 1

    return stepping(step, batches)


def dictionary_learning(batches: list[Any]) -> Callable[[], object]:
    """One step of its TopK trainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10_000, activation_dim=D, dict_size=WIDTH, k=K, layer=0, lm_name="none", device="cpu", lr=3e-4
    )
    number = iter(range(10**9))
    return stepping(lambda rows: trainer.update(next(number), rows), batches)


def sparsify(batches: list[Any]) -> Callable[[], object]:
    """One step of its sparse coder, as its trainer takes it, with Adam."""
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    coder = SparseCoder(D, SparseCoderConfig(num_latents=WIDTH, k=K), device="cpu", dtype=torch.float32)
    optimiser = torch.optim.Adam(coder.parameters(), lr=3e-4)

    def step(rows: Any) -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(rows).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    return stepping(step, batches)


def contenders(batches: list[Any]) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """One dictionary, and eight of them, of everybody who is here."""
    import torch

    from patchclamp.dictionaries.jumprelu import JumpReLU
    from patchclamp.dictionaries.matryoshka import MatryoshkaBatchTopK
    from patchclamp.dictionaries.relu import ReLU
    from patchclamp.dictionaries.topk import BatchTopK, TopKEncoder

    weight, offset = torch.randn(WIDTH, D), torch.zeros(WIDTH)
    one: dict[str, Callable[[], object]] = {"encoder product": lambda: torch.addmm(offset, batches[0], weight.T)}
    for encoder in (TopKEncoder(K), BatchTopK(K), MatryoshkaBatchTopK(K), ReLU(1.0), JumpReLU(target_l0=K)):
        one[f"patchclamp {type(encoder).__name__.removesuffix('Encoder')}"] = ours(encoder, batches)
    eight = {"patchclamp TopK": ours(TopKEncoder(K), batches, WIDTHS)}
    for name, make in (("SAELens", saelens), ("dictionary_learning", dictionary_learning), ("sparsify", sparsify)):
        try:
            one[f"{name} TopK"] = make(batches)
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
    if "SAELens TopK" in one:
        eight["SAELens TopK"] = saelens(batches, WIDTHS)
    return one, eight


def floor() -> dict[str, float]:
    """What a step of TopK cannot do without: operations, and bytes to and from memory."""
    product, entries = 2 * ROWS * D * WIDTH, ROWS * K
    sparse = 4 * 2 * entries * D  # decode, its two gradients, and the encoder's
    parameters = 2 * WIDTH * D
    return {
        "gflop_product": product / 1e9,
        "gflop_sparse": sparse / 1e9,
        "gflop_dense_autograd": 5 * product / 1e9,
        "products": (product + sparse) / product,
        "gb_scores": 2 * 4 * ROWS * WIDTH / 1e9,
        "gb_gathered": 4 * 4 * entries * D / 1e9,
        "gb_adam": 28 * parameters / 1e9,
    }


def measure(rounds: int) -> None:
    """Take turns, and write ``out/dictionary_training.json``."""
    import torch

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import common

    torch.set_num_threads(common.THREADS)
    torch.manual_seed(0)
    batches = [torch.randn(ROWS, D) for _ in range(4)]
    one, eight = contenders(batches)
    for work in (*one.values(), *eight.values()):
        work()
    seconds = common.interleave(one, rounds)
    jobs = common.interleave(eight, max(rounds // 2, 3))
    table = {
        name: {
            "seconds": statistics.median(values),
            "products": common.ratio(values, seconds["encoder product"]),
            "rows_per_cpu_second": ROWS / statistics.median(values),
            "slower_than_topk": common.ratio(values, seconds["patchclamp TopK"]),
        }
        for name, values in seconds.items()
    }
    for name, row in table.items():
        print(
            f"{name:<32} {row['seconds']:7.3f} s  {row['products']:6.2f} products  {row['rows_per_cpu_second']:9,.0f} rows/s  "
            f"{row['slower_than_topk']:6.2f} x ours"
        )
    targets = [common.Target("TopK, encoder products a step", table["patchclamp TopK"]["products"], 1.8, at_most=True)]
    goals = {"SAELens TopK": 6.0, "dictionary_learning TopK": 5.0, "sparsify TopK": 2.0}
    for name, goal in goals.items():
        if name in table:
            targets.append(common.Target(f"TopK: {name} takes", table[name]["slower_than_topk"], goal))
    if "SAELens TopK" in jobs:
        ratio = common.ratio(jobs["SAELens TopK"], jobs["patchclamp TopK"])
        targets.append(common.Target("eight widths in one job: SAELens takes", ratio, 5.0))
    record = {"step": table, "seconds": seconds, "eight_widths": jobs, "floor": floor()}
    common.write("dictionary_training", record, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inside", action="store_true", help="measure in this interpreter")
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments.rounds)
        return
    make_environment()
    subprocess.run([str(python()), __file__, "--inside", "--rounds", str(arguments.rounds)], check=True)


if __name__ == "__main__":
    main()
