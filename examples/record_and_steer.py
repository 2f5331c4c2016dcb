# %% [markdown]
# # Record a difference of means, and steer with it
#
# The mean activation after sad beginnings of stories minus that after happy ones is a direction. Does adding it make
# stories15M's stories sadder? Sadness is counted in words, on beginnings that were not used to find the direction; a
# random direction of the same length is the control.

# %%
import torch

import patchclamp as pc

model = pc.load("stories15m", dtype="float32")
SITE = "resid_post.3"
SAD = ["The boy was very sad. He cried", "Tim lost his toy and was sad. He", "The dog was hurt and it cried. It was sad", "Anna was alone and she felt sad. She"]
HAPPY = ["The boy was very happy. He smiled", "Tim found his toy and was happy. He", "The dog was glad and it ran. It was happy", "Anna had friends and she felt happy. She"]

# %%
means = [model.record(prompts, SITE, at="last")[SITE].mean(0) for prompts in (SAD, HAPPY)]
direction = means[0] - means[1]
random = torch.randn(len(direction), generator=torch.Generator().manual_seed(0))
random *= direction.norm() / random.norm()
print("length of the direction:", round(float(direction.norm()), 2))

# %%
BEGINNINGS = ["Once upon a time there was a little cat", "One day Ben went to the park", "Lily and her mom were in the kitchen", "There was a big tree near the house", "Sam had a red ball", "A bird lived in the forest"]  # fmt: skip
WORDS = ("sad", "cry", "cried", "hurt", "lost", "alone", "scared", "sorry")


def sadness(edits: list[pc.Edit]) -> float:
    """Sad words a story."""
    texts = model.generate(BEGINNINGS, edits, max_new_tokens=60).texts
    return sum(text.count(word) for text in texts for word in WORDS) / len(texts)


for scale in (0, 1, 2, 3):
    steered, control = (
        sadness([pc.Add(vector, scale, site=SITE, at="all")] if scale else []) for vector in (direction, random)
    )
    print(f"scale {scale}: {steered:.2f} sad words a story; random direction {control:.2f}")

# %%
print(model.generate(BEGINNINGS[1], pc.Add(direction, 3, site=SITE, at="all"), max_new_tokens=40).texts[0])
