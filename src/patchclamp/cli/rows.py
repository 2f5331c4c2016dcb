"""Rows of activations on the command line: toy data, a file, a recording, or a model over a corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from patchclamp.cli.options import Opening
from patchclamp.cli.tune_lens import read_corpus
from patchclamp.core import folders
from patchclamp.core.errors import InputError
from patchclamp.core.files import reading

if TYPE_CHECKING:
    import patchclamp as pc

SOURCE_HELP = (
    "Where rows come from: toy data (a folder of `dictionary toy`), FILE.npy of rows, the folder of a recording, or a model by "
    "name or folder (with --site)."
)
CORPUS_HELP = "For a model: gutenberg (the default), a book of it as gutenberg:carroll-alice, or text files."
HELD_OUT_SEED = 2**31
"""From where toy data draw held-out rows."""
HELD_OUT = 0.1
"""The share of the rows that is held out at least, where they are not made fresh."""


def open_rows(
    source: str, opening: Opening, *, site: str | None, corpus: Sequence[str] | None, batch_size: int, steps: int
) -> "tuple[pc.ActivationStream, pc.ActivationStream]":
    """The rows to train on, and others to measure on.

    Args:
        source: What the user named.
        opening: How a model is opened.
        site: Where the rows lie, of a model or a recording.
        corpus: What a model reads.
        batch_size: The number of rows of a batch.
        steps: The number of batches to train on.

    Raises:
        InputError: There is no such source, it has too few rows, or the site is missing or does not apply.
    """
    import patchclamp as pc

    path = Path(source)
    form = folders.form_of(path) if path.is_dir() else None
    made = "toy data" if form is folders.TOY else "rows of a file" if path.suffix == ".npy" else None
    for option, value in (("site", site), ("corpus", corpus)):
        if value is not None and made is not None:
            raise InputError(f"--{option} {value}: {made} have none")
    if corpus is not None and form is folders.RESULT:
        raise InputError(f"--corpus {corpus[0]}: a recording has its own texts")
    if form is folders.TOY:
        toy = pc.dictionaries.ToyData.from_pretrained(path)
        return toy.stream(batch_size, rows=steps * batch_size), toy.stream(batch_size, seed=HELD_OUT_SEED)
    if path.suffix == ".npy":
        stream = pc.ActivationStream.from_array(_array(path), batch_size=batch_size)
    elif site is None:
        raise InputError(f"{source!r}: --site says where the rows lie, as mlp_act.3")
    elif form is folders.RESULT:
        recording = pc.open(path)
        if not isinstance(recording, pc.Activations):
            raise InputError(
                f"{source!r} holds {recording.kind}; rows come from a recording (`patchclamp run --record`)"
            )
        stream = pc.ActivationStream.from_recording(recording, site, batch_size=batch_size)
    else:
        texts = read_corpus(list(corpus or ["gutenberg"]))
        stream = opening.load(source).activation_stream(texts, site, batch_size=batch_size)
    return _split(stream, steps)


def _split(stream: "pc.ActivationStream", steps: int) -> "tuple[pc.ActivationStream, pc.ActivationStream]":
    count, wanted = stream.count or 0, steps * stream.batch_size
    usable = count - max(1, int(count * HELD_OUT))
    if wanted > usable:
        raise InputError(
            f"{steps} steps of {stream.batch_size} rows are {wanted:,} rows; {usable:,} are there to train on, as a tenth of the "
            f"{count:,} is held out: {usable // stream.batch_size} steps at most"
        )
    return stream.split(wanted)


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    with reading(path):
        rows: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows
