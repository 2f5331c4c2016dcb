import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.core.errors import InputError, MissingDependencyError, missing_dependency, nearest, unknown


def test_the_message_has_value_choices_and_nearest_name() -> None:
    said = unknown("site", "mlpout", ["mlp_out", "attn_out", "embed"])
    assert "'mlpout'" in said
    assert "did you mean 'mlp_out'" in said
    assert "attn_out, embed" in said


def test_nothing_near_is_not_guessed() -> None:
    assert nearest("zzzz", ["mlp_out", "attn_out"]) is None
    assert "did you mean" not in unknown("site", "zzzz", ["mlp_out"])


def test_long_lists_are_cut_and_counted() -> None:
    assert "(76 more)" in unknown("x", "q", [f"name{i}" for i in range(100)])


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20), st.data())
def test_a_valid_name_is_its_own_nearest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert nearest(name, names) == name


def test_input_errors_are_value_errors_and_missing_packages_import_errors() -> None:
    assert issubclass(InputError, ValueError)
    error = missing_dependency("reading GGUF", "gguf", "assets")
    assert isinstance(error, MissingDependencyError)
    assert isinstance(error, ImportError)
    with pytest.raises(ImportError, match=r"pip install 'patchclamp\[assets\]'"):
        raise error
