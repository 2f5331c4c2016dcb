"""Sentences that differ only in gender, in a part to fit on and a part to test on; and text that speaks of neither."""

import random
import re

import patchclamp as pc

ANSWERS = (" he", " she")
TRAIN_NOUNS = (
    ("king", "queen"), ("man", "woman"), ("father", "mother"), ("brother", "sister"), ("uncle", "aunt"), ("boy", "girl"),
    ("son", "daughter"), ("actor", "actress"), ("prince", "princess"), ("husband", "wife"), ("grandfather", "grandmother"),
    ("waiter", "waitress"), ("gentleman", "lady"), ("nephew", "niece"), ("stepfather", "stepmother"), ("landlord", "landlady"),
    ("schoolboy", "schoolgirl"), ("fisherman", "fisherwoman"),
)  # fmt: skip
TEST_NOUNS = (
    ("monk", "nun"), ("duke", "duchess"), ("grandson", "granddaughter"), ("wizard", "witch"),
    ("businessman", "businesswoman"), ("policeman", "policewoman"),
)  # fmt: skip
TRAIN_NAMES = (
    ("James", "Mary"), ("John", "Sarah"), ("Robert", "Linda"), ("Michael", "Jennifer"), ("David", "Susan"), ("William", "Karen"),
    ("George", "Helen"), ("Charles", "Margaret"), ("Edward", "Alice"), ("Frank", "Ruth"), ("Henry", "Julia"), ("Paul", "Nancy"),
)  # fmt: skip
TEST_NAMES = (("Thomas", "Emma"), ("Daniel", "Laura"), ("Peter", "Anna"))
TRAIN_TEMPLATES = (
    "Last week {} went to the market because", "Last week {} was very tired, so", "Last week {} was late because",
    "Last week {} left early because", "Last week {} worked hard until",
)  # fmt: skip
TEST_TEMPLATES = (
    "Last week {} could not sleep because",
    "Last week {} bought a car because",
    "I heard that {} forgot what",
)
"""The person never comes first: the first token is an attention sink, which carries little of what it says."""
OTHER_WORDS = (
    "he", "him", "his", "himself", "she", "her", "hers", "herself", "mr", "mrs", "miss", "sir", "madam", "lord",
    "lady", "man", "men", "woman", "women", "boy", "boys", "girl", "girls", "father", "mother", "son", "sons",
    "daughter", "daughters", "brother", "brothers", "sister", "sisters", "husband", "wife", "gentleman", "gentlemen",
)  # fmt: skip


def pairs(part: str) -> list[tuple[str, str]]:
    """Pairs of prompts (male, female): ``"train"``, or ``"test"`` with other nouns, other names, and more templates."""
    is_test = part == "test"
    nouns, names = (TEST_NOUNS, TEST_NAMES) if is_test else (TRAIN_NOUNS, TRAIN_NAMES)
    templates = (*TRAIN_TEMPLATES, *TEST_TEMPLATES) if is_test else TRAIN_TEMPLATES
    people = [(f"the {a}", f"the {b}") for a, b in nouns] + list(names)
    return [(template.format(a), template.format(b)) for a, b in people for template in templates]


def people(part: str) -> int:
    """How many pairs of people a part has."""
    return len(TEST_NOUNS) + len(TEST_NAMES) if part == "test" else len(TRAIN_NOUNS) + len(TRAIN_NAMES)


def labelled(part: str) -> tuple[list[str], list[str], list[int]]:
    """The prompts of a part, with ``"1 male"`` or ``"2 female"``, and the number of the person they are of (a group)."""
    prompt_pairs = pairs(part)
    sentences = len(prompt_pairs) // people(part)
    # classes are ordered by name, and the first answer is that of the first class
    return (
        [prompt for pair in prompt_pairs for prompt in pair],
        ["1 male", "2 female"] * len(prompt_pairs),
        [i // sentences for i in range(len(prompt_pairs)) for _ in range(2)],
    )


def neutral_texts(count: int, *, characters: int = 400, seed: int = 0) -> list[str]:
    """Passages of State of the Union speeches in which no gendered word stands; no two overlap."""
    words = {word for pair in pc.catalogue.gendered_words() for word in pair} | set(OTHER_WORDS)
    generator = random.Random(seed)
    speeches = [speech.text for speech in pc.catalogue.state_of_the_union() if speech.year >= 1900]
    texts: list[str] = []
    stops: dict[str, list[int]] = {}
    while len(texts) < count:
        text = generator.choice(speeches)
        stop = text.find(". ", generator.randrange(max(1, len(text) - 2 * characters)))
        passage = text[stop + 2 : stop + 2 + characters].rsplit(None, 1)[0]
        if stop < 0 or any(abs(stop - other) < characters for other in stops.get(text, ())):
            continue
        if len(passage) > characters // 2 and not words & set(re.findall(r"[a-z]+", passage.lower())):
            stops.setdefault(text, []).append(stop)
            texts.append(passage)
    return texts


def either_way() -> dict[str, list[str]]:
    """Beginnings of WinoBias and Winogender sentences up to a "he" or "she", each once.

    Both pronouns may follow: most WinoBias sentences of type 1 begin as another one does, which is about the other of the two
    people, whose stereotype is the opposite. So there is no expected answer, only how far a model leans.
    """
    winobias = (
        s for s in pc.catalogue.winobias() if s.pronoun in ("he", "she") and s.kind == 1 and s.pronoun_start > 0
    )
    winogender = (s.sentence for s in pc.catalogue.winogender() if " he " in s.sentence)
    return {
        "WinoBias": sorted({s.sentence[: s.pronoun_start].rstrip() for s in winobias}),
        "Winogender": sorted({sentence.partition(" he ")[0] for sentence in winogender}),
    }
