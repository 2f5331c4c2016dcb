"""``patchclamp tune-lens MODEL --out FOLDER``: train a tuned lens."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import Json, ModelName, Opening, Strings
from patchclamp.cli.output import remember, say, show
from patchclamp.core import folders
from patchclamp.core.errors import InputError
from patchclamp.core.files import read_text

command = App(
    name="tune-lens", help="Train a tuned lens: an affine map a layer, after which it predicts what the last does."
)


@command.default
def tune_lens(
    model: ModelName,
    *,
    out: Annotated[Path, Parameter(help="Folder for the lens.")],
    corpus: Strings = None,
    tokens: int = 250_000,
    length: int | None = None,
    passes: int = 1,
    held_out: float = 0.1,
    optimizer: Literal["adam", "sgd"] = "adam",
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    batch: int = 512,
    seed: int = 0,
    checkpoint: Path | None = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Train a tuned lens and report its KL to the final layer on held-out text, with the logit lens beside it.

    Args:
        out: Folder for the lens.
        corpus: gutenberg (the default), a book of it as gutenberg:carroll-alice, or text files.
        tokens: How many to train on, at most.
        length: Of a sequence; by default 256, or the model's context if that is shorter.
        passes: How often the corpus is gone through.
        held_out: The end of the corpus that is kept for the report, as a share of what is trained on.
        optimizer: Adam, or SGD with Nesterov momentum.
        learning_rate: By default 0.002 for Adam and 1 for SGD.
        weight_decay: Pulls to the logit lens.
        batch: Tokens of a step.
        seed: Of the order of the sequences.
        checkpoint: Folder from which a killed training goes on.
    """
    folders.check(out, folders.TUNED_LENS, *folders.COMMAND)
    texts = read_corpus(corpus or ["gutenberg"])
    options: dict[str, Any] = {
        "tokens": tokens, "length": length, "passes": passes, "held_out": held_out, "optimizer": optimizer,
        "learning_rate": learning_rate, "weight_decay": weight_decay, "batch": batch, "seed": seed, "checkpoint": checkpoint,
    }  # fmt: skip
    lens = opening.load(model).tune_lens(texts, **options)
    lens.save_pretrained(out)
    show(
        lens.training_report, as_json=as_json, table=lens.frame(), title="KL(final || layer) on held-out text, in nats"
    )
    config = {"model": model, "corpus": corpus, "out": out, **options, **opening.as_config()}
    remember(out, shlex.join(["patchclamp", *sys.argv[1:]]), "tune-lens", config)
    say(f"saved to {out}")


def read_corpus(corpus: list[str]) -> str | list[str]:
    """A name of the catalogue, or the texts of files."""
    files = [Path(name) for name in corpus]
    if len(corpus) == 1 and not files[0].is_file():
        return corpus[0]
    missing = [name for name, file in zip(corpus, files, strict=True) if not file.is_file()]
    if missing:
        raise InputError(f"--corpus {missing[0]!r} is no file; several are text files, one may be a name as gutenberg")
    return [read_text(file) for file in files]
