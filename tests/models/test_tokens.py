"""Text and tokens, on real tokenizers: byte-level BPE (SmolLM2) and sentencepiece-like (stories15M)."""

import pytest

import patchclamp as pc
from patchclamp.models import tokens

pytestmark = pytest.mark.assets
TEXTS = ["The capital of Spain is", "Once upon a time,\nthere was  a dog.", "Zoë — naïve café 日本", "a\tb  c"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["smollm2", "stories"])
def test_labels_spell_the_text(name: str, text: str, request: pytest.FixtureRequest) -> None:
    model: pc.Model = request.getfixturevalue(name)
    shown = model.tokens(text)
    assert len(shown) == len(model.prompts(text)[0].ids)
    if text.isascii() and "\t" not in text:
        spelled = "".join(shown).removeprefix("<s>")
        assert spelled.replace("<0x0A>", "\n").strip() == text


@pytest.mark.parametrize("name", ["smollm2", "stories"])
def test_single_tokens_as_they_stand_in_a_sentence(name: str, request: pytest.FixtureRequest) -> None:
    model: pc.Model = request.getfixturevalue(name)
    prompt = model.prompts("The dog and the cat")[0]
    for word in (" dog", " cat", " and"):
        assert model.token_id(word) in prompt.ids
        assert tokens.in_context(model.tokenizer, model.token_id(word)) == word
    with pytest.raises(pc.InputError, match=r"' Tegucigalpa' is not one token: the tokenizer gives \d"):
        model.token_id(" Tegucigalpa")


def test_a_missing_space_gets_a_hint(smollm2: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="with a leading space, as inside a sentence, it would be ' Tegucigalpa'"):
        smollm2.token_id("Tegucigalpa")


@pytest.mark.parametrize("name", ["smollm2", "stories"])
def test_spans_of_strings(name: str, request: pytest.FixtureRequest) -> None:
    model: pc.Model = request.getfixturevalue(name)
    text = "Lily saw a cat. The cat ran to the park."
    prompt = model.prompts(text)[0]

    def found(wanted: str, occurrence: int | None = None) -> str:
        where = tokens.find_span(model.tokenizer, prompt.ids, prompt.text, wanted, occurrence)
        assert list(where) == list(range(where[0], where[-1] + 1))
        return "".join(prompt.tokens[i] for i in where)

    assert found(" park").strip() == "park"
    assert found("The cat").strip() == "The cat"
    first, second = (tokens.find_span(model.tokenizer, prompt.ids, text, " cat", i) for i in (0, 1))
    assert first < second
    assert tokens.find_span(model.tokenizer, prompt.ids, text, " cat", -1) == second
    from_ids = tokens.find_span(model.tokenizer, prompt.ids, None, " park", None)
    assert from_ids == tokens.find_span(model.tokenizer, prompt.ids, text, " park", None), "with and without the text"


@pytest.mark.parametrize(
    ("wanted", "occurrence", "message"),
    [
        (" dog", None, r"the string ' dog' is not in the prompt; its tokens are \['L"),
        (" cat", None, r"stands 2 times in the prompt .* pc.token\(' cat', occurrence=0\.\.1\)"),
        (" cat", 2, "occurrence 2 of ' cat': it stands 2 times"),
        (" pa", None, r"does not end on token borders: it lies inside ' park'"),
        ("", None, "is not in the prompt"),
    ],
)
def test_absent_ambiguous_and_cut_strings_show_the_tokens(
    smollm2: pc.Model, wanted: str, occurrence: int | None, message: str
) -> None:
    prompt = smollm2.prompts("Lily saw a cat. The cat ran to the park.")[0]
    with pytest.raises(pc.PositionError, match=message):
        tokens.find_span(smollm2.tokenizer, prompt.ids, prompt.text, wanted, occurrence)


def test_the_embedding_is_what_the_model_looks_up(smollm2: pc.Model) -> None:
    table = smollm2.weight("embed")
    assert (smollm2.embedding(" Rome") == table[smollm2.token_id(" Rome")]).all()
    acts = smollm2.record("The Rome", "embed")
    assert (acts["embed"][0, -1] == smollm2.embedding(" Rome")).all()


def test_a_word_that_the_tokenizer_reads_otherwise_is_named(stories: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="'dog' is no token of its own: the tokenizer reads it as ' dog'"):
        stories.token_id("dog")


def test_half_a_character_is_no_text(smollm2: pc.Model) -> None:
    for call in (smollm2.tokens, smollm2.run, smollm2.token_id, smollm2.output_id):
        with pytest.raises(pc.InputError, match="half a character"):
            call("a\ud800")
    assert smollm2.tokens("\N{GRINNING FACE}")
