"""What values mean beyond their type: seeds, counts, folders, labels, rows of numbers. Each kind is read in one place."""

import os
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.readers import Rule, UnfitError, path, tensor, whole_number


def between(least: int, most: int, what: str) -> Rule:
    """A whole number in a range, both ends included."""
    valid = f"a whole number in {least}..{most:,} ({what})"

    def read(value: Any) -> int:
        try:
            whole_value = whole_number(value)
        except UnfitError:
            raise UnfitError(valid) from None
        if not least <= whole_value <= most:
            raise UnfitError(valid)
        return whole_value

    return Rule(valid, read)


def _folder(value: Any) -> Any:
    location = path(value)
    if _exists(location, os.path.isdir) is False and os.path.lexists(location):
        raise UnfitError("a folder", "it is a file, and a folder is needed")
    return location


def _place(value: Any) -> Any:
    location = path(value)
    _exists(location, os.path.isdir)
    return location


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitError("a name")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnfitError("a name", "it holds half a character, which no file can keep") from None
    return str(value)


def _file(value: Any) -> Any:
    location = path(value)
    if _exists(location, os.path.isdir):
        raise UnfitError("a file", "it is a folder, and a file is needed")
    return location


def _exists(path: Any, test: Callable[[Any], bool]) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnfitError("a path", f"it cannot be a path here: {error.strerror}") from None
    return test(path)


def _point(value: Any) -> Tensor:
    """One array of real numbers, detached from the computation that made it."""
    point: Tensor = tensor(value).detach()
    if point.is_complex():
        raise UnfitError("an array of real numbers", f"it holds {point.dtype}; real numbers are needed")
    return point


def read_points(value: Any) -> Tensor | list[Tensor]:
    """Several points: one tensor, or a list where their shapes may differ."""
    if isinstance(value, Tensor | np.ndarray):
        points = _point(value)
        if not points.ndim:
            raise UnfitError("points, as rows [row, *shape]")
        return points
    if isinstance(value, str | bytes | Mapping | Set | type) or not isinstance(value, Iterable):
        raise UnfitError("points, as rows [row, *shape]")
    return [_point(item) for item in list(value)]


def _labels(value: Any) -> Any:
    """Labels, one a row, as they are; an iterator as a list."""
    several = isinstance(value, Iterable) or hasattr(value, "__array__")
    if not several or getattr(value, "ndim", 1) == 0 or isinstance(value, str | bytes | Mapping | Set | type):
        raise UnfitError("labels, one a row")
    if isinstance(value, Tensor):
        labels = tensor(value).detach()
        return labels.float() if labels.dtype == torch.bfloat16 else labels  # which numpy does not have
    if not hasattr(value, "__len__") and not hasattr(value, "__array__"):
        return list(value)
    if isinstance(value, list | tuple):
        _regular(value)
    return value


def _groups(value: Any) -> Any:
    """Labels along one axis."""
    labels = _labels(value)
    if (axes := np.ndim(_regular(labels))) != 1:
        raise UnfitError("groups, one a row", f"groups are one a row, [row]; these have {axes} axes")
    return labels


def _regular(value: Any) -> Any:
    try:
        return np.asarray([_plain(item) for item in value] if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UnfitError("rows of equal length") from None


def _plain(item: Any) -> Any:
    return tensor(item).detach().cpu().tolist() if isinstance(item, Tensor) else item


def _numbers(value: Any) -> Any:
    """Real numbers of any shape, as a tensor or an array."""
    if isinstance(value, Tensor):
        array: Any = tensor(value).detach()
        array = array.float() if array.dtype == torch.bfloat16 else array  # which numpy does not have
        real = not array.is_complex()
    elif isinstance(value, str | bytes | Mapping | Set | type) or value is None:
        raise UnfitError("real numbers")
    else:
        array = _regular(value)
        real = array.dtype.kind in "biuf"
    if not real:
        raise UnfitError("real numbers", f"it holds {str(array.dtype).removeprefix('torch.')}; real numbers are needed")
    return array


def _array(value: Any) -> Any:
    """Numbers with an axis at least; what an array or a frame holds is for the estimators to say."""
    if isinstance(value, list | tuple):
        _numbers(value)
        return value
    many = hasattr(value, "shape") or hasattr(value, "__array__")
    single = np.ndim(value) == 0 if isinstance(value, np.ndarray | np.generic | Tensor) else not many
    if single or isinstance(value, type):
        raise UnfitError("an array of real numbers")
    return tensor(value) if isinstance(value, Tensor) else value


Seed = Annotated[int, between(0, 2**32 - 1, "a seed")]
"""Where random numbers begin: what torch, numpy and scikit-learn all take."""
Folder = Annotated[str | Path, Rule("a folder", _folder)]
"""A folder, which may not exist yet."""
Place = Annotated[str | Path, Rule("a name or a folder", _place)]
"""What is opened: a folder, or a name of the catalogue or a hub."""
Name = Annotated[str, Rule("a name", _name)]
"""What a result calls something that it holds."""
File = Annotated[str | Path, Rule("a file", _file)]
"""A file, which may not exist yet."""
Repeats = Annotated[int, between(0, 10**5, "how often")]
"""How often a piece of work is done again: more would not end."""
Labels = Annotated[Any, Rule("labels, one a row", _labels)]
"""Labels or groups, one a row or prompt: a list, an array, a tensor or a series."""
Point = Annotated[Any, Rule("a point, an array of real numbers", _point)]
"""A point of a network's input or activation space."""
Points = Annotated[Any, Rule("points, as rows [row, *shape]", read_points)]
"""Several points."""
Groups = Annotated[Any, Rule("groups, one a row", _groups)]
"""What belongs together, one a row or prompt: labels with one axis."""
Numbers = Annotated[Any, Rule("real numbers", _numbers)]
"""A real number or several, in any shape."""
Array = Annotated[Any, Rule("an array of real numbers", _array)]
"""Real numbers with one axis or more."""
