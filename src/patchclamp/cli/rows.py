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
"""The share of a file's rows, at its end, that is held out."""


def open_rows(
    source: str,
    opening: Opening,
    *,
    site: str | None,
    corpus: Sequence[str] | None,
    batch_size: int,
    steps: int | None,
) -> "tuple[pc.ActivationStream, pc.ActivationStream]":
    """The rows to train on, and those to measure on.

    Fresh rows of toy data or of a model never come twice: what comes after the training rows is held out, so both are one stream.

    Args:
        source: What the user named.
        opening: How a model is opened.
        site: Where the rows lie, of a model or a recording.
        corpus: What a model reads.
        batch_size: The number of rows of a batch.
        steps: The number of batches after which rows to train on end; None where the training itself counts them.

    Raises:
        InputError: There is no such source, or the site is missing or does not apply.
    """
    import patchclamp as pc

    path = Path(source)
    if path.suffix == ".npy":
        rows = _array(path)
        count = len(rows) - int(len(rows) * HELD_OUT) if len(rows) > 1 else 1
        used = count if steps is None else min(count, steps * batch_size)
        passes = None if steps is None else 1
        return (
            pc.ActivationStream.from_array(rows[:used], batch_size=batch_size, passes=passes),
            pc.ActivationStream.from_array(rows[count:] if count < len(rows) else rows, batch_size=batch_size, shuffle=False),
        )
    form = folders.form_of(path) if path.is_dir() else None
    if form is folders.TOY:
        toy = pc.dictionaries.ToyData.from_pretrained(path)
        training = toy.stream(batch_size, rows=None if steps is None else steps * batch_size)
        return training, toy.stream(batch_size, seed=HELD_OUT_SEED)
    if site is None:
        raise InputError(f"{source!r}: --site says where the rows lie, as mlp_act.3")
    if form is folders.RESULT:
        recording = pc.open(path)
        stream = pc.ActivationStream.from_recording(recording, site, batch_size=batch_size)
        return stream, stream
    stream = opening.load(source).activation_stream(read_corpus(list(corpus or ["gutenberg"])), site, batch_size=batch_size)
    return stream, stream


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    with reading(path):
        rows: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows
