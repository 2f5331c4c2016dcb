# %% [markdown]
# # Record a difference of means, and steer with it
#
# The mean activation after sad beginnings of stories minus that after happy ones is a direction. Does adding it make
# stories15M's stories sadder? Sadness is counted in words, on beginnings that were not used to find the direction; a
# random direction of the same length is the control, and so is the share of distinct words: too large a dose breaks the text.

# %%
import torch

import patchclamp as pc

model = pc.load("stories15m", dtype="float32")
SITE = "resid_post.3"
SAD = [
    "The boy was very sad. He cried",
    "Tim lost his toy and was sad. He",
    "The dog was hurt and it cried. It was sad",
    "Anna was alone and she felt sad. She",
]
HAPPY = [
    "The boy was very happy. He smiled",
    "Tim found his toy and was happy. He",
    "The dog was glad and it ran. It was happy",
    "Anna had friends and she felt happy. She",
]

# %%
means = [model.record(prompts, SITE, at="last")[SITE].mean(0) for prompts in (SAD, HAPPY)]
direction = means[0] - means[1]
random = torch.randn(len(direction), generator=torch.Generator().manual_seed(0))
random *= direction.norm() / random.norm()
print("length of the direction:", round(float(direction.norm()), 2))

# %%
BEGINNINGS = [
    "Once upon a time there was a little cat", "One day Ben went to the park", "Lily and her mom were in the kitchen",
    "There was a big tree near the house", "Sam had a red ball", "A bird lived in the forest", "Mia wanted to bake a cake",
    "The old man had a boat", "Tom and Sue were friends", "In the garden there was a frog", "A rabbit found a box",
    "Jack looked out of the window",
]  # fmt: skip
WORDS = ("sad", "cry", "cried", "hurt", "lost", "alone", "scared", "sorry", "upset")


def measure(edits: list[pc.Edit]) -> tuple[float, float]:
    """Share of stories with a sad word, and share of distinct words (it falls when the text degenerates)."""
    texts = model.generate(BEGINNINGS, edits, max_new_tokens=60).texts
    sad = sum(any(word in text for word in WORDS) for text in texts) / len(texts)
    words = [text.split() for text in texts]
    return sad, sum(len(set(w)) for w in words) / sum(len(w) for w in words)


print("no edit: {:.0%} of stories have a sad word; {:.0%} of their words are distinct".format(*measure([])))
sad = {}
for scale in (0.5, 1, 1.5, 2):
    for name, vector in (("sad - happy", direction), ("random", random)):
        sad[name, scale], distinct = measure([pc.Add(vector, scale, site=SITE, at="all")])
        print(f"{scale:>3} x {name:<12} {sad[name, scale]:4.0%} sad; {distinct:.0%} distinct")
assert sad["sad - happy", 1] > sad["random", 1] + 0.3

# %%
print(model.generate(BEGINNINGS[1], pc.Add(direction, 1, site=SITE, at="all"), max_new_tokens=60).texts[0])
