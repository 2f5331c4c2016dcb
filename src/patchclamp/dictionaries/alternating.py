"""Fits that alternate between codes of a batch and atoms: their loop, progress, checkpoints, and batches from the user."""

import time
from abc import abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import checked_methods, settle_held
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.files import check_place, reading
from patchclamp.core.interrupts import resumable
from patchclamp.core.kinds import Array
from patchclamp.core.plain import to_plain
from patchclamp.core.progress import task
from patchclamp.core.tensors import read_state, write_state
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.fit import DictionaryFit
from patchclamp.dictionaries.scaling import RowScaling, Whiten

SAVE_EVERY = 30.0
"""Seconds between two checkpoints."""
VERSION = 1
"""Of the methods; a checkpoint of another version is not continued."""


@dataclass(frozen=True, eq=False)
class Alternation:
    """Where an alternating fit stands: all that its next batch depends on. Subclasses add tensors."""

    atoms: Float[Tensor, "width d"]
    """The atoms, of length 1 or less."""
    steps: int
    """The number of batches taken in."""
    residual: Float[Tensor, ""]
    """The sum of squared residuals of the latest batch."""
    power: Float[Tensor, ""]
    """The sum of squared rows of the latest batch."""
    active: Float[Tensor, ""]
    """The mean number of active atoms of a row of the latest batch."""

    def plain(self) -> dict[str, Any]:
        """All fields by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class AlternatingFit(DictionaryFit):
    """Base of the fits that take batches one after another: a subclass says how it begins, and what one batch changes."""

    width: int
    batch_size: int
    centre: bool
    scale: bool
    whiten: Whiten
    checkpoint: Any
    random_state: int
    _scaling: RowScaling
    _state: Any
    _kept: tuple[Any, dict[str, Any]]
    """The state after the latest batch, and where the stream stood then: what a checkpoint holds."""

    def partial_fit(self, X: Array, y: Any = None) -> Self:
        """Take in one batch more; several calls are one ``fit`` on a stream of the same batches.

        The first call also measures the scaling and draws the first atoms, from its own rows, so that it needs at least as many
        rows as there are atoms.

        Args:
            X: Activations ``[row, d]``, one batch.
            y: Not used; scikit-learn passes it.

        Raises:
            InputError: Rows of another width than before, fewer rows at first than atoms, or numbers that are not finite.
        """
        del y
        settle_held(self)
        self._check()
        rows = ActivationStream.from_array(X, batch_size=len(X), passes=1, shuffle=False)
        if not hasattr(self, "_state"):
            self._begin(rows.sample(len(X)))
        elif rows.d != self._state.atoms.shape[1]:
            raise InputError(f"rows have width {rows.d}; those before had {self._state.atoms.shape[1]}")
        for batch in rows:
            self._state = self._step(self._state, self._scaling(batch.rows.to(self._state.atoms)), None)
        self.dictionary_ = self._dictionary()
        self.n_features_in_ = self.dictionary_.d
        return self

    @abstractmethod
    def _check(self) -> None:
        """Refuse settings that make no sense."""

    @abstractmethod
    def _start(self, atoms: Tensor) -> Any:
        """The state before the first batch."""

    @abstractmethod
    def _step(self, state: Any, x: Tensor, remaining: int | None) -> Any:
        """The state after one batch more; the old one stays as it is.

        Args:
            state: Where the fit stands.
            x: The batch, in the coordinates of the dictionary.
            remaining: The number of rows that come after it, or None if that is not known.
        """

    @abstractmethod
    def _encoder(self) -> Any:
        """The encoder of the dictionary."""

    def _begin(self, sample: Tensor) -> None:
        if len(sample) < self.width:
            raise InputError(
                f"{type(self).__name__}(width={self.width}) begins with that many rows as atoms, and there are {len(sample)}"
            )
        sample = sample.to(torch.promote_types(sample.dtype, torch.float32))
        self._scaling = RowScaling.of(sample, centre=self.centre, scale=self.scale, whiten=self.whiten).to(
            sample.device
        )
        generator = torch.Generator().manual_seed(self.random_state)
        order = torch.randperm(len(sample), generator=generator).to(sample.device)
        rows = self._scaling(sample)
        lengths = rows.norm(dim=1)
        order = order[torch.argsort((lengths[order] == 0).to(torch.int8), stable=True)]  # rows of zeros come last
        self._state = self._start(torch.nn.functional.normalize(rows[order[: self.width]]))

    def _learn(self, stream: ActivationStream) -> Dictionary:
        self._check()
        path = None
        if self.checkpoint is not None:
            check_place(self.checkpoint, "a checkpoint")
            path = Path(self.checkpoint) / f"{type(self).__name__.lower()}-{self._identity(stream)}.pt"
        self._begin(stream.sample(max(self.width, stream.batch_size)))
        if path is not None and path.is_file():
            self._load(path, stream)
        self._kept = (self._state, stream.state() if path is not None else {})
        with resumable(self.checkpoint):
            try:
                self._run(stream, path)
            except KeyboardInterrupt:
                if path is not None:
                    self._save(path)
                raise
        return self._dictionary()

    def _run(self, stream: ActivationStream, path: Path | None) -> None:
        saved, remaining = time.monotonic(), stream.remaining
        if path is not None and stream.exhausted:
            return  # the checkpoint is of the end
        with torch.no_grad(), task("dictionary", remaining, "rows") as bar:
            for batch in stream:
                x = self._scaling(batch.rows.to(self._state.atoms))
                state = self._step(self._state, x, stream.remaining)
                position = stream.state() if path is not None else {}
                self._kept = (state, position)  # at once, so that an interrupt finds a state and its place
                self._state = state
                bar.advance(len(batch.rows), None if bar.listener is None else _shown(state))
                if path is not None and time.monotonic() - saved >= SAVE_EVERY:
                    self._save(path)
                    saved = time.monotonic()
        if path is not None:
            self._save(path)

    def _dictionary(self) -> Dictionary:
        state = self._state
        card = {
            "fit": type(self).__name__,
            "parameters": to_plain(self._settings(), {}),
            "batches": state.steps,
            "explained": float(1 - state.residual / state.power.clamp_min(torch.finfo(state.power.dtype).tiny)),
            "active": float(state.active),
        }
        return Dictionary(state.atoms, self._encoder(), scaling=self._scaling, card=card)

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.get_params(deep=False).items() if name != "checkpoint"}

    def _identity(self, stream: ActivationStream) -> str:
        """What decides the result: the method, its settings, and the stream."""
        place = {name: value for name, value in stream.state().items() if name not in ("passed", "row")}
        return digest(VERSION, type(self).__name__, self._settings(), place, stream.passes)[:16]

    def _save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state, position = self._kept
        write_state(path, {"state": state.plain(), "stream": position})

    def _load(self, path: Path, stream: ActivationStream) -> None:
        stored = read_state(path)
        with reading(path, "delete it to start again"):
            atoms = self._state.atoms
            values = {
                name: value.to(atoms.device) if isinstance(value, Tensor) else value
                for name, value in stored["state"].items()
            }
            if values["atoms"].shape != atoms.shape:
                raise ValueError(f"its atoms are {tuple(values['atoms'].shape)}, not {tuple(atoms.shape)}")
            self._state = type(self._state)(**values)
            stream.restore(stored["stream"])


checked_methods(AlternatingFit)


def _shown(state: Alternation) -> str:
    """How well the latest batch is explained, for the progress."""
    return f"EV {float(1 - state.residual / state.power):.4f}, L0 {float(state.active):.1f}"
