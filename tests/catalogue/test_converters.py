import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import patchclamp as pc
from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.converters.mnist import read_idx
from patchclamp.catalogue.converters.resnet50 import _distinct
from patchclamp.catalogue.converters.stories15m import _halves


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=5)))
def test_idx_files_are_read_back(array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    assert np.array_equal(read_idx(header + array.tobytes()).numpy(), array)


@pytest.mark.parametrize(("suffix", "mode"), [("xz", "w:xz"), ("gz", "w:gz"), ("", "w")])
def test_a_debian_package_is_read_past_its_other_members(tmp_path: Path, suffix: str, mode: str) -> None:
    """Members of odd length are padded; the length in the header is not."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in (("./usr/a.txt", b"first"), ("./usr/b.bin", b"second")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    named = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{suffix}".rstrip("."): packed.getvalue()}
    package = b"!<arch>\n"
    for name, data in named.items():
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    (tmp_path / "x.deb").write_bytes(package)
    assert read_members(tmp_path / "x.deb", "./usr/", ".txt") == {"./usr/a.txt": b"first"}
    (tmp_path / "y.deb").write_bytes(package.replace(b"data.tar", b"date.tar"))
    with pytest.raises(pc.AssetError, match="no Debian package, or one without data"):
        read_members(tmp_path / "y.deb")


@given(st.integers(1, 3), st.integers(1, 4))
def test_reordering_rotary_rows_keeps_rotated_scores(heads: int, half: int) -> None:
    """Interleaved rotary on the stored rows equals half-split rotary on the reordered ones, as scores see them."""
    size, width = 2 * half, 5
    generator = torch.Generator().manual_seed(heads * 10 + half)
    q, k = (torch.randn(heads * size, width, generator=generator, dtype=torch.float64) for _ in range(2))
    x, y = (torch.randn(width, generator=generator, dtype=torch.float64) for _ in range(2))
    angle = torch.rand(half, generator=generator, dtype=torch.float64) * 3

    def interleaved(v: torch.Tensor) -> torch.Tensor:
        pairs = v.view(heads, half, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).reshape(
            heads, size
        )

    def halves(v: torch.Tensor) -> torch.Tensor:
        a, b = v.view(heads, 2, half).unbind(1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    stored = (interleaved(q @ x) * (k @ y).view(heads, size)).sum(-1)
    converted = (halves(_halves(q, size) @ x) * (_halves(k, size) @ y).view(heads, size)).sum(-1)
    assert torch.allclose(stored, converted)


def test_classes_of_one_name_are_told_apart() -> None:
    names = _distinct({134: "crane", 517: "crane", 1: "fish"})
    assert names == {134: "crane", 517: "crane.517", 1: "fish"}
