"""What is kept in a folder of its own: a record, and its tensors beside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.kinds import Folder
from patchclamp.core.tensors import read_tensors, write_tensors


class Stored(ABC):
    """Base of what is saved as one JSON file with one file of tensors, named after the kind of folder."""

    _form: ClassVar[folders.Form]

    @checked
    def save(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """Write a JSON file and its tensors as safetensors; the folder then holds them, or what it held before.

        What the folder held of the same kind is replaced. A direction is written only into a folder of its own, a covariance
        also beside files of others, which are left alone.

        Args:
            folder: The folder to write.
            overwrite: Write beside whatever lies there, and take the place of another thing of patchclamp's too. A file in the
                way that is not of an earlier thing of this kind, or was changed since, becomes ``NAME.bak``.

        Raises:
            InputError: The folder holds something else that is in the way; without ``overwrite`` nothing of it is touched.
            StorageError: The system refused; the folder is as it was.
        """
        tensors: dict[str, Tensor] = {}
        record = {"format_version": self._form.version, **self._as_record(tensors)}
        return folders.save(
            folder,
            self._form,
            record,
            lambda into: write_tensors(into / self._form.files[0], tensors),
            overwrite=overwrite,
        )

    @classmethod
    @checked
    def open(cls, folder: Folder) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: The folder holds something else, or a newer format; or a file was changed, is damaged or missing.
        """
        path = Path(folder)
        with folders.opened(path, cls._form) as record:
            record.pop("files", None)
            return cls._from_record(record, read_tensors(path / cls._form.files[0]))

    @abstractmethod
    def _as_record(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Everything but the tensors as plain JSON; they go into ``tensors``, by name."""

    @classmethod
    @abstractmethod
    def _from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor], context: Any = None) -> Self:
        """The inverse; :func:`patchclamp.core.plain.savable_as` says what the context is."""
