TRAIN_NOUNS = (
    ("king", "queen"), ("man", "woman"), ("father", "mother"), ("brother", "sister"), ("boy", "girl"), ("prince", "princess"),
    ("grandfather", "grandmother"), ("uncle", "aunt"),
)  # fmt: skip
TEST_NOUNS = (("son", "daughter"), ("gentleman", "lady"), ("wizard", "witch"), ("waiter", "waitress"))
TRAIN_NAMES = (("Tom", "Lily"), ("Ben", "Mia"))
TEST_NAMES = (("Jack", "Anna"), ("Sam", "Lucy"))
NOUN_OPENING, NAME_OPENING = "Once upon a time, there was a kind {}.", "One day, {} went to the park."
OPENINGS = tuple(
    opening.format(word)
    for opening, pairs in ((NOUN_OPENING, TRAIN_NOUNS + TEST_NOUNS), (NAME_OPENING, TRAIN_NAMES + TEST_NAMES))
    for pair in pairs
    for word in pair
)
