"""Edits that know the model they were fitted on."""

from dataclasses import replace

import pytest
import torch

import patchclamp as pc
from patchclamp.interventions.edit import Origin
from tests import tiny


def test_a_model_is_known_in_other_types_and_float16_is_explained() -> None:
    single = pc.wrap(tiny.shared("llama", torch.float32))
    origin = Origin("tiny", single.fingerprint(), "resid_post.1")
    edit = replace(pc.Scale(0.5, site="resid_post.1"), origin=origin)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        opened = single if dtype == torch.float32 else pc.wrap(tiny.shared("llama", dtype))
        assert opened.run([[1, 2, 3]], edit).fired == (3,)
    with pytest.raises(
        pc.EditError, match=r"fitted at 'resid_post\.1' and is placed at 'resid_post\.2'.*elsewhere=True"
    ):
        single.run([[1, 2, 3]], edit.on("resid_post.2"))
    anywhere = replace(edit, origin=replace(origin, site=None))
    assert single.run([[1, 2, 3]], anywhere.on("resid_post.2")).fired == (3,)
    with pytest.raises(pc.EditError, match="fit the direction on this model .float16 rounds weights otherwise"):
        pc.wrap(tiny.shared("llama", torch.float16)).run([[1, 2, 3]], edit)
    with pytest.raises(pc.EditError, match="fit the direction on this model$"):
        pc.wrap(tiny.shared("qwen2", torch.float32)).run([[1, 2, 3]], edit)
