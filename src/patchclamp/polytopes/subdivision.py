"""A convex polygon cut into convex polygons: vertices, directed edges and the faces on their two sides."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OUTSIDE = -1
"""The face beyond the sides of the box."""
BOX = -1
"""The gate of an edge that is a side of the box."""


class Column:
    """An array that grows by rows at the end."""

    def __init__(self, values: Any) -> None:
        self._buffer = np.array(values)
        self.size = len(self._buffer)

    @property
    def rows(self) -> Any:
        """What is in it, a view."""
        return self._buffer[: self.size]

    def add(self, values: Any) -> None:
        """Append rows."""
        size = self.size + len(values)
        if size > len(self._buffer):
            larger = np.empty((2 * size, *self._buffer.shape[1:]), self._buffer.dtype)
            larger[: self.size] = self.rows
            self._buffer = larger
        self._buffer[self.size : size] = values
        self.size = size


@dataclass
class Subdivision:
    """The faces of a polygon after some cuts.

    Only edges know their faces: a cut then touches arrays of edges, never lists of corners. An edge runs from ``tails`` to
    ``heads`` with the face ``left`` at its left; the edge of a cut has the face where the cut's values are positive there.

    Source: Berzins 2023, "Polyhedral complex extraction from ReLU networks using edge subdivision", ICML; there with sign vectors
    instead of faces.
    """

    points: Column
    """Vertices, ``[vertex, 2]``."""
    tails: Column
    heads: Column
    left: Column
    right: Column
    labels: Column
    """The label of each edge: number of the gate, neuron, and which of the neuron's pieces end there, ``[edge, 3]``."""
    faces: int = 1
    parents: Column = field(default_factory=lambda: Column(np.zeros((0, 2), np.int64)))
    """For each vertex since :meth:`begin`, the ends of the edge on which it was made."""
    fractions: Column = field(default_factory=lambda: Column(np.zeros(0)))
    """Its place between them."""
    origin: Column = field(default_factory=lambda: Column(np.zeros(1, np.int64)))
    """For each face, the face at :meth:`begin` of which it is a part."""

    @classmethod
    def of(cls, corners: Any) -> "Subdivision":
        """A convex polygon, its corners counterclockwise ``[corner, 2]``."""
        vertices = np.asarray(corners, dtype=np.float64)
        count = len(vertices)
        side = np.arange(count)
        return cls(
            Column(vertices), Column(side), Column(np.roll(side, -1)), Column(np.zeros(count, np.int64)),
            Column(np.full(count, OUTSIDE)), Column(np.stack([np.full(count, BOX), side, 0 * side], axis=1)),
        )  # fmt: skip

    def begin(self) -> None:
        """From here on, remember the parents of vertices and faces."""
        self.parents, self.fractions = Column(np.zeros((0, 2), np.int64)), Column(np.zeros(0))
        self.origin = Column(np.arange(self.faces))

    def cut(self, values: Floats, label: tuple[int, int, int]) -> tuple[Ints, Ints, Floats]:
        """Cut every face along the zeros of a function that is affine on each face.

        Args:
            values: The values at the vertices; those that are exactly 0 are on the cut.
            label: The label of the new edges.

        Returns:
            The ends and the fraction of every edge on which a vertex was made: ``tails, heads, fractions``.
        """
        signs = np.sign(values).astype(np.int8)
        tails, heads = self.tails.rows, self.heads.rows
        at_tail, at_head = signs[tails], signs[heads]
        cut_edges = np.flatnonzero(at_tail * at_head < 0)
        touching_edges = cut_edges if signs.all() else np.flatnonzero(at_tail * at_head <= 0)
        a, b = tails[cut_edges], heads[cut_edges]
        fractions = values[a] / (values[a] - values[b])
        if not len(touching_edges):
            return a, b, fractions
        halves = self._break_edges(cut_edges, a, b, fractions)
        negative = np.flatnonzero(at_tail + at_head < 0)
        signs = np.concatenate([signs, np.zeros(len(cut_edges), np.int8)])
        self._break_faces(np.concatenate([touching_edges, halves]), negative, signs, label)
        return a, b, fractions

    def _break_edges(self, edges: Ints, a: Ints, b: Ints, fractions: Floats) -> Ints:
        """Put a vertex on each; the second halves become new edges, whose numbers are returned."""
        vertices = self.points.size + np.arange(len(edges))
        points = self.points.rows
        self.points.add(points[a] + fractions[:, None] * (points[b] - points[a]))
        self.parents.add(np.stack([a, b], axis=1))
        self.fractions.add(fractions)
        self.heads.rows[edges] = vertices
        halves = self.tails.size + np.arange(len(edges))
        self._add_edges(vertices, b, self.left.rows[edges], self.right.rows[edges], self.labels.rows[edges])
        return halves

    def _add_edges(self, tails: Ints, heads: Ints, left: Ints, right: Ints, labels: Ints) -> None:
        for column, values in (
            (self.tails, tails), (self.heads, heads), (self.left, left), (self.right, right), (self.labels, labels),
        ):  # fmt: skip
            column.add(values)

    def _break_faces(self, edges: Ints, negative: Ints, signs: NDArray[np.int8], label: tuple[int, int, int]) -> None:
        """Join the two ends of the cut in each face, and give the part with negative values a new number.

        Args:
            edges: Edges that end on the cut.
            negative: Edges with a negative end and no positive one, before edges were broken.
            signs: The signs of the vertices.
            label: The label of the new edges.
        """
        tails, heads = self.tails.rows[edges], self.heads.rows[edges]
        # as each face sees them, counterclockwise
        start, end = np.concatenate([tails, heads]), np.concatenate([heads, tails])
        face = np.concatenate([self.left.rows[edges], self.right.rows[edges]])
        inside = face != OUTSIDE
        start, end, face = start[inside], end[inside], face[inside]
        numbers, slot = np.unique(face, return_inverse=True)
        before, after = signs[start], signs[end]
        down, up = (before == 0) & (after < 0), (before < 0) & (after == 0)
        single_pass = np.ones(len(numbers), bool)
        for transition in (down, up, (before > 0) & (after == 0), (before == 0) & (after > 0)):
            # a face thinner than rounding may meet the cut in other ways: it stays whole
            single_pass &= np.bincount(slot[transition], minlength=len(numbers)) == 1
        leave, enter = np.zeros((2, len(numbers)), np.int64)
        leave[slot[down]], enter[slot[up]] = start[down], end[up]
        above, below = numbers[single_pass], self.faces + np.arange(single_pass.sum())
        new_numbers = np.arange(self.faces + 1)
        new_numbers[above], new_numbers[OUTSIDE] = below, OUTSIDE
        lower = np.concatenate([negative, edges[signs[tails] + signs[heads] < 0]])
        for side in (self.left.rows, self.right.rows):
            side[lower] = new_numbers[side[lower]]
        self._add_edges(leave[single_pass], enter[single_pass], above, below, np.tile(np.array(label), (len(above), 1)))
        self.faces += len(above)
        self.origin.add(self.origin.rows[above])

    def merge(self, edges: Ints) -> None:
        """Take edges away, and make one face of the two on their sides."""
        if not len(edges):
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = self.left.rows[edges], self.right.rows[edges]
        adjacency = coo_array((np.ones(len(edges), np.int8), pairs), shape=(self.faces, self.faces))
        self.faces, numbers = connected_components(adjacency, directed=False)
        origin = np.empty(self.faces, np.int64)
        origin[numbers] = self.origin.rows
        self.origin = Column(origin)
        numbers = np.append(numbers, OUTSIDE)
        mask = np.ones(self.tails.size, bool)
        mask[edges] = False
        self.left, self.right = (Column(numbers[side.rows[mask]]) for side in (self.left, self.right))
        self.tails, self.heads, self.labels = (
            Column(part.rows[mask]) for part in (self.tails, self.heads, self.labels)
        )

    def sides(self) -> tuple[Ints, Ints, Ints]:
        """Every edge as each of its faces sees it, counterclockwise: face, start and end, ``[side]`` each."""
        face = np.concatenate([self.left.rows, self.right.rows])
        start = np.concatenate([self.tails.rows, self.heads.rows])
        end = np.concatenate([self.heads.rows, self.tails.rows])
        inside = face != OUTSIDE
        return face[inside], start[inside], end[inside]

    def averages(self) -> Any:
        """The sparse matrix that takes values at vertices to their mean over the corners of each face, ``[face, vertex]``."""
        from scipy.sparse import coo_array

        corners, begin = self.corners()
        counts = np.diff(begin)
        face = np.repeat(np.arange(self.faces), counts)
        return coo_array((1 / counts[face], (face, corners)), shape=(self.faces, self.points.size)).tocsr()

    def corners(self) -> tuple[Ints, Ints]:
        """The vertices of each face in order, counterclockwise, and where each face begins: ``[corner]``, ``[face + 1]``.

        A vertex on a straight side, that only two edges meet, is left out.
        """
        face, start, end = self.sides()
        order = np.lexsort((start, face))
        face, start, end = face[order], start[order], end[order]
        key = face * self.points.size + start
        successor = np.searchsorted(key, face * self.points.size + end)
        begins = np.searchsorted(face, np.arange(self.faces + 1))
        ordered, current = np.empty_like(start), begins[:-1].copy()
        lengths, live = np.diff(begins), np.arange(self.faces)
        for step in range(int(lengths.max())):
            live = live[lengths[live] > step]
            ordered[begins[live] + step] = start[current[live]]
            current[live] = successor[current[live]]
        degree = np.bincount(self.tails.rows, minlength=self.points.size)
        degree += np.bincount(self.heads.rows, minlength=self.points.size)
        box = self.labels.rows[:, 0] == BOX
        first, second = (np.full(self.points.size, -1) for _ in range(2))
        first[self.tails.rows[box]], second[self.heads.rows[box]] = self.labels.rows[box, 1], self.labels.rows[box, 1]
        corner_mask = (degree[ordered] > 2) | (first[ordered] != second[ordered])
        return ordered[corner_mask], np.append(0, np.cumsum(np.bincount(face[corner_mask], minlength=self.faces)))
