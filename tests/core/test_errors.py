import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.core.errors import InputError, MissingDependencyError, missing_dependency, nearest, unknown


def test_the_message_has_value_choices_and_nearest_name() -> None:
    assert unknown("site", "mlpout", ["mlp_out", "attn_out", "embed"]) == (
        "unknown site 'mlpout'; did you mean 'mlp_out'? Valid: mlp_out, attn_out, embed"
    )
    assert unknown("layer", 7, [5, 70]) == "unknown layer 7; did you mean '70'? Valid: 5, 70"
    assert unknown("site", "x", []) == "unknown site 'x'. Valid: none"


def test_nothing_near_is_not_guessed() -> None:
    assert nearest("zzzz", ["mlp_out", "attn_out"]) is None
    assert unknown("site", "zzzz", ["mlp_out"]) == "unknown site 'zzzz'. Valid: mlp_out"
    # near is half of the letters in common, as difflib counts them: 2 * 4 / 16 is, 2 * 3 / 14 is not
    assert nearest("abcdwxyz", ["abcdefgh"]) == "abcdefgh"
    assert nearest("abcwxyz", ["abcdefg"]) is None
    assert nearest("abcd", ["abxx", "abcx", "axxx"]) == "abcx"


def test_long_lists_are_cut_and_counted() -> None:
    names = [f"n{i}" for i in range(100)]
    assert unknown("x", "?", names).endswith("Valid: " + ", ".join(names[:24]) + ", ... (76 more)")
    assert unknown("x", "?", names, limit=2).endswith("Valid: n0, n1, ... (98 more)")
    assert unknown("x", "?", names[:24]).endswith("n22, n23"), "a list that fits is not cut"


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=20), st.data())
def test_a_valid_name_is_its_own_nearest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert nearest(name, names) == name


def test_input_errors_are_value_errors_and_missing_packages_import_errors() -> None:
    assert issubclass(InputError, ValueError)
    error = missing_dependency("reading GGUF", "gguf", "assets")
    assert isinstance(error, MissingDependencyError)
    assert isinstance(error, ImportError)
    assert str(error) == "reading GGUF needs gguf, which is not installed: pip install 'patchclamp[assets]'"
    with pytest.raises(ImportError, match=r"pip install 'patchclamp\[assets\]'"):
        raise error
