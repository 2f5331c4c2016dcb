"""One interface from which everything trains: batches of activation rows, shuffled, replayable from a seed, and resumable."""

from collections.abc import Iterator
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.activations.batch import ActivationBatch as ActivationBatch
from patchclamp.activations.batch import RowSource as RowSource
from patchclamp.activations.recordings import recorded_rows
from patchclamp.activations.sources import ArraySource, FunctionSource, MakeRows
from patchclamp.core.arguments import checked, checked_methods
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.kinds import Array, Seed
from patchclamp.interventions import Activations

BATCH_SIZE, BUFFER = 4096, 65_536
_SAME = ("source", "d", "seed", "batch_size", "shuffle", "buffer", "begin", "end")
"""What a state and the stream that it is put into have alike."""


@checked
class ActivationStream:
    """Batches of activation rows, from an array, a function, a recording, or a model that reads a corpus.

    ``for batch in stream`` goes on from where the stream stands; :meth:`state` is plain JSON, and :meth:`restore` puts the stream
    there, so that the batches that follow are bit for bit those that would have followed. :meth:`restart` begins anew, and
    :meth:`sample` returns the first rows without moving the stream.

    A pass has every row once, and each pass has an order of its own. An array is shuffled as a whole. What cannot be held in
    memory is shuffled in a buffer: ``buffer`` rows are read, mixed, and given out before the next are read; a model reads its
    sequences in random order besides, so that a buffer holds some of the whole corpus.

    All batches have ``batch_size`` rows: what is left at the end of a pass is the beginning of the next pass's first batch.
    Only the very last batch of the last pass may be smaller; no row is lost.

    Args:
        source: Where rows come from.
        batch_size: The number of rows of a batch.
        passes: The number of times that every row comes; None is endless.
        shuffle: Whether rows are mixed; else they come as they stand.
        buffer: The number of rows among which those of a source are mixed that cannot be held as a whole.
        seed: What all orders are drawn from.

    Raises:
        InputError: A number below 1.
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int = BATCH_SIZE,
        passes: int | None = 1,
        shuffle: bool = True,
        buffer: int = BUFFER,
        seed: Seed = 0,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("passes", passes), ("buffer", buffer)):
            if number is not None and number < 1:
                raise InputError(f"{name} is 1 or more; got {number!r}")
        self.source: RowSource = source
        self.batch_size, self.passes, self.shuffle, self.buffer, self.seed = batch_size, passes, shuffle, buffer, seed
        self._begin: int = 0
        self._end: int | None = None
        self._passed, self._row = 0, 0
        self._batches: Iterator[tuple[ActivationBatch, int, int]] | None = None

    @classmethod
    def from_array(
        cls,
        rows: Array,
        *,
        documents: Any = None,
        positions: Any = None,
        tokens: Any = None,
        batch_size: int = BATCH_SIZE,
        passes: int | None = 1,
        shuffle: bool = True,
        seed: Seed = 0,
    ) -> Self:
        """Rows that are there, in numpy (``numpy.memmap`` is read as it is needed) or torch; they are not copied.

        Args:
            rows: Activations ``[row, d]``: finite floating point numbers.
            documents: The number of each row's document, ``[row]``.
            positions: Each row's position in its document, ``[row]``.
            tokens: Each row's token id, ``[row]``.
            batch_size: The number of rows of a batch.
            passes: The number of times that every row comes; None is endless.
            shuffle: Whether rows are mixed.
            seed: What all orders are drawn from.

        Raises:
            InputError: Rows of another shape or type, none at all, or a number that is not finite.
        """
        array = rows.detach() if isinstance(rows, Tensor) else np.asanyarray(rows)
        columns = [
            _whole_numbers(name, values)
            for name, values in (("documents", documents), ("positions", positions), ("tokens", tokens))
        ]
        source = ArraySource(array, *columns)
        return cls(source, batch_size=batch_size, passes=passes, shuffle=shuffle, seed=seed)

    @classmethod
    def from_function(
        cls, make: MakeRows, d: int, *, count: int | None = None, batch_size: int = BATCH_SIZE, seed: Seed = 0
    ) -> Self:
        """Rows that a function makes, as toy data do.

        Args:
            make: ``make(seed, step, count)`` gives the ``[count, d]`` rows of step 0, 1, ...; equal arguments, equal rows.
            d: The width of a row.
            count: The number of rows after which the stream ends; endless by default.
            batch_size: The number of rows of a batch, which is that of a step.
            seed: What ``make`` gets.

        Raises:
            InputError: A number below 1; when rows are made, rows of another shape or type, or that are not finite.
        """
        for name, number in (("d", d), ("count", count), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise InputError(f"{name} is 1 or more; got {number!r}")
        source = FunctionSource(make, d, seed, batch_size, count)
        return cls(source, batch_size=batch_size, passes=None if count is None else 1, seed=seed)

    @classmethod
    def from_recording(
        cls,
        activations: Activations,
        site: str | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        passes: int | None = 1,
        shuffle: bool = True,
        seed: Seed = 0,
    ) -> Self:
        """Rows of a result of :meth:`patchclamp.Model.record`; ``documents`` are the numbers of its prompts.

        Args:
            activations: What was recorded.
            site: One site of it, as ``"mlp_act.3"``; may be left out if there is one alone. Heads are put side by side.
            batch_size: The number of rows of a batch.
            passes: The number of times that every row comes; None is endless.
            shuffle: Whether rows are mixed.
            seed: What all orders are drawn from.

        Raises:
            InputError: A site that was not recorded, several, or attention patterns, whose rows have no fixed width.
        """
        source = recorded_rows(activations, site)
        return cls(source, batch_size=batch_size, passes=passes, shuffle=shuffle, seed=seed)

    @property
    def d(self) -> int:
        """The width of a row."""
        return self.source.d

    @property
    def count(self) -> int | None:
        """The number of rows of one pass, or None if that is not known or there is no end.

        Attention sinks inside the text count, although no batch has them: they are found when the model runs.
        """
        return None if self._last is None else self._last - self._begin

    @property
    def _last(self) -> int | None:
        return self.source.count if self._end is None else self._end

    @property
    def remaining(self) -> int | None:
        """The number of rows that are still to come, or None if that is not known or there is no end."""
        if self.count is None or self.passes is None:
            return None
        return max((self.passes - self._passed) * self.count - (self._row - self._begin), 0)

    @property
    def exhausted(self) -> bool:
        """Whether no row comes any more."""
        return self.passes is not None and self._passed >= self.passes

    def __iter__(self) -> Iterator[ActivationBatch]:
        if self.exhausted:
            raise InputError(
                f"the stream is exhausted: all rows of its passes={self.passes} have come; "
                "call restart(), or make it with more passes"
            )
        return self

    def __next__(self) -> ActivationBatch:
        if self._batches is None:
            self._batches = self._batches_from(self._passed, self._row)
        try:
            batch, self._passed, self._row = next(self._batches)
        except StopIteration:
            self._passed, self._row = self.passes or 0, self._begin
            raise
        except BaseException:
            self._batches = None  # a generator that raised is at its end, and the rows are not
            raise
        if self._row == self._last:
            self._passed, self._row = self._passed + 1, self._begin
        shown = self._shown(batch)
        return shown if len(shown) else next(self)

    def restart(self) -> None:
        """Begin anew with the first row."""
        self._move(0, self._begin)

    def split(self, count: int) -> tuple["ActivationStream", "ActivationStream"]:
        """The first ``count`` rows and those after them, as two streams: to train on, and to measure on.

        No row is in both, in whatever order the stream has them. This stream does not move.

        Raises:
            InputError: The stream has several passes, in which every row would come again, or too few rows.
        """
        if self._last is not None and self.passes != 1:
            raise InputError(f"a stream of passes={self.passes} has every row again and again: split one of passes=1")
        if count < 1 or (self._last is not None and count >= self._last - self._begin):
            raise InputError(f"count is a number of rows that leaves some: in 1..{(self.count or 0) - 1}; got {count}")
        first, rest = copy(self), copy(self)
        first._end, first.passes, rest._begin = self._begin + count, 1, self._begin + count
        for part in (first, rest):
            part.restart()
        return first, rest

    def sample(self, n: int) -> Float[Tensor, "row d"]:
        """The first rows, whatever has been read, without moving the stream: ``[n, d]``, or all of one pass if there are fewer.

        Raises:
            InputError: ``n`` is below 1, or the source has no row.
        """
        if n < 1:
            raise InputError(f"a sample has 1 row or more; got n={n!r}")
        parts: list[Tensor] = []
        held, row = 0, self._begin
        for chunk in self._pass(0, self._begin):
            part = chunk if self._end is None else chunk.part(0, self._end - row)
            row += len(part)
            parts.append(self._shown(part).rows[: n - held])
            held += len(parts[-1])
            if held == n or row == self._end:
                break
        return torch.cat(parts)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON: for :meth:`restore` of a stream of the same rows."""
        return {**self._identity(), "passed": self._passed, "row": self._row}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where a stream of the same rows, seed and sizes stood.

        Raises:
            InputError: The state is none, or one of another stream; the message names what differs.
        """
        identity = self._identity()
        expected = [*identity, "passed", "row"]
        for name in state:
            if name not in expected:
                raise InputError(unknown("entry of a stream's state", name, expected))
        missing = [name for name in expected if name not in state]
        if missing:
            raise InputError(f"this is no state of a stream: it has no {missing[0]!r}")
        for name in _SAME:
            if state[name] != identity[name] or type(state[name]) is not type(identity[name]):
                raise InputError(
                    f"the state is of another stream: {name} was {state[name]!r} there, and is {identity[name]!r} here"
                )
        passed, row = state["passed"], state["row"]
        if not all(type(number) is int and number >= 0 for number in (passed, row)):
            raise InputError(f"passed and row of a stream's state are 0 or more; got {passed!r} and {row!r}")
        if (self._last is not None and not self._begin <= row < self._last) or (
            self.passes is not None and passed > self.passes
        ):
            raise InputError(
                f"the state stands at row {row} of pass {passed}; this stream has {self.count} rows and passes={self.passes}"
            )
        self._move(passed, row)

    def _identity(self) -> dict[str, Any]:
        sizes = (self.batch_size, self.shuffle, self.buffer, self._begin, self._end)
        values = (self.source.digest(), self.d, self.seed, *sizes)
        return dict(zip(_SAME, values, strict=True))

    def _move(self, passed: int, row: int) -> None:
        self._passed, self._row, self._batches = passed, row, None

    def _batches_from(self, passed: int, row: int) -> Iterator[tuple[ActivationBatch, int, int]]:
        """Batches, each with the pass and the row at which the next begins."""
        parts: list[ActivationBatch] = []
        held = 0
        while self.passes is None or passed < self.passes:
            for chunk in self._pass(passed, row):
                begin, end = 0, len(chunk) if self._end is None else min(len(chunk), self._end - row)
                while begin < end:
                    part = chunk.part(begin, min(begin + self.batch_size - held, end))
                    parts.append(part)
                    begin, row, held = begin + len(part), row + len(part), held + len(part)
                    if held == self.batch_size:
                        yield ActivationBatch.joined(parts), passed, row
                        parts, held = [], 0
                if row == self._end:
                    break
            passed, row = passed + 1, self._begin
        if parts:
            yield ActivationBatch.joined(parts), passed, row

    def _shown(self, batch: ActivationBatch) -> ActivationBatch:
        """A batch without the rows that its source omits."""
        if not self.source.omits_special or batch.special is None or not bool(batch.special.any()):
            return batch
        return batch.picked((~batch.special).nonzero()[:, 0])

    def _pass(self, passed: int, row: int) -> Iterator[ActivationBatch]:
        """The rows of one pass from one on, in its order.

        Raises:
            InputError: There is none in the whole pass, or one of another width.
        """
        rows = self._mixed(passed, row) if self.shuffle and not self.source.mixed else self._read(passed, row)
        empty = row == 0
        for chunk in rows:
            if chunk.rows.ndim != 2 or chunk.rows.shape[1] != self.d:
                raise InputError(f"the source gave rows of shape {tuple(chunk.rows.shape)}; they are [row, {self.d}]")
            empty = empty and not len(chunk)
            yield chunk
        if empty:
            raise InputError("the stream is empty: its source gives no row")

    def _read(self, passed: int, begin: int) -> Iterator[ActivationBatch]:
        seed = _derived(self.seed, passed) if self.shuffle else None
        return self.source.chunks(seed, begin, self.batch_size)

    def _mixed(self, passed: int, row: int) -> Iterator[ActivationBatch]:
        """Mix the rows of each buffer; those of the buffer in which ``row`` lies are read again."""
        number, skip = divmod(row, self.buffer)
        parts: list[ActivationBatch] = []
        held = 0

        def mixed() -> Iterator[ActivationBatch]:
            rows = ActivationBatch.joined(parts)
            generator = torch.Generator().manual_seed(_derived(self.seed, passed, number))
            order = torch.randperm(len(rows), generator=generator)[skip:]
            yield from (rows.picked(chosen) for chosen in order.split(self.batch_size) if len(chosen))

        for chunk in self._read(passed, number * self.buffer):
            begin = 0
            while begin < len(chunk):
                part = chunk.part(begin, begin + self.buffer - held)
                parts.append(part)
                begin, held = begin + len(part), held + len(part)
                if held == self.buffer:
                    yield from mixed()
                    parts, held, number, skip = [], 0, number + 1, 0
        if parts:
            yield from mixed()


checked_methods(ActivationStream)


def _derived(*numbers: int) -> int:
    """A seed that differs for each sequence of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _whole_numbers(name: str, values: Any) -> Tensor | None:
    if values is None:
        return None
    column = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
        raise InputError(f"{name} are whole numbers, one a row; got {column.dtype}")
    return column.detach()
