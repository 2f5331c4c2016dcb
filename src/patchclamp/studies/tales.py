"""Made-up tales in which a pronoun follows a person again and again, so that a tiny model learns gender in minutes."""

import random

TRAIN_NOUNS = (
    ("king", "queen"), ("man", "woman"), ("father", "mother"), ("brother", "sister"), ("boy", "girl"), ("prince", "princess"),
    ("grandfather", "grandmother"), ("uncle", "aunt"),
)  # fmt: skip
TEST_NOUNS = (("son", "daughter"), ("gentleman", "lady"), ("wizard", "witch"), ("waiter", "waitress"))
NAMES = (("Tom", "Lily"), ("Ben", "Mia"), ("Jack", "Anna"), ("Sam", "Lucy"))
NOUN_OPENING, NAME_OPENING = "Once upon a time, there was a kind {}.", "One day, {} went to the park."
OPENINGS = tuple(
    opening.format(word)
    for opening, pairs in ((NOUN_OPENING, TRAIN_NOUNS + TEST_NOUNS), (NAME_OPENING, NAMES))
    for pair in pairs
    for word in pair
)
"""Stories begin with these openings, in which every noun and name stands as often as its partner."""
SENTENCES = (
    "Once upon a time, there was a {mood} {who}. {He} lived near the {place}.",
    "One day, {who} went to the {place}. {He} saw a {thing}.",
    "{Who} was very {mood}. {He} liked the {thing}.", "Then {who} came home. {He} was {mood}.",
    "{Who} was {mood} because {he} had a {thing}.", "{Who} said that {he} wanted a {thing}.",
    "{Who} lost the {thing}, so {he} went to the {place}.", "In the {place}, {who} found a {thing}. {He} was {mood}.",
)  # fmt: skip
WORDS = {
    "mood": ("happy", "sad", "kind", "tired", "old", "brave", "hungry", "proud"),
    "place": ("park", "house", "forest", "river", "market", "garden", "beach", "shop"),
    "thing": ("ball", "bird", "book", "cake", "hat", "tree", "flower", "boat"),
}
LENGTH = 5
"""Sentences of a tale."""


def tales(count: int, seed: int = 0) -> list[str]:
    """Tales of :data:`LENGTH` sentences, each of one person or of two by turns."""
    generator = random.Random(seed)
    people = [(word, i) for pair in (*TRAIN_NOUNS, *TEST_NOUNS, *NAMES) for i, word in enumerate(pair)]
    return [_tale(generator, generator.sample(people, generator.choice((1, 2)))) for _ in range(count)]


def _tale(generator: random.Random, people: list[tuple[str, int]]) -> str:
    sentences = []
    for number in range(LENGTH):
        word, gender = people[number % len(people)]
        frame = generator.choice(SENTENCES[1:] if word.istitle() else SENTENCES)
        person = word if word.istitle() or frame is SENTENCES[0] else f"the {word}"
        he = ("he", "she")[gender]
        words = {name: generator.choice(choices) for name, choices in WORDS.items()}
        sentences.append(frame.format(who=person, Who=person[0].upper() + person[1:], he=he, He=he.title(), **words))
    return " ".join(sentences)
