"""Drawing takes longer than everything else that is saved, and is tested where the figures are."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Figures are made, but a few bytes are written in place of each."""

    def write(_: Figure, target: Any, *args: Any, **options: Any) -> None:
        picture = b"a picture that a test did not draw"
        target.write(picture) if hasattr(target, "write") else Path(target).write_bytes(picture)

    patch.setattr(Figure, "savefig", write)
