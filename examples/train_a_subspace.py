# %% [markdown]
# # One direction for grammatical number
#
# "The dog near the old gate" goes on with "is", "The dogs near the old gate" with "are". Distributed alignment search (Geiger et
# al., 2024) looks for the directions of the residual stream in which swapping the coordinates of two runs swaps what they
# do. One direction is trained on some nouns and tested on nouns that it has not seen; beside it the whole vector swapped (the
# ceiling) and a random direction (the control).

# %%
import itertools

import torch
from torch import Tensor

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
model.module.requires_grad_(False)
SITE, NOUN = "resid_post.10", 1  # the noun is token 1
PAIRS = [
    ("dog", "dogs"), ("cat", "cats"), ("boy", "boys"), ("girl", "girls"), ("teacher", "teachers"), ("doctor", "doctors"),
    ("car", "cars"), ("house", "houses"), ("book", "books"), ("tree", "trees"), ("king", "kings"), ("friend", "friends"),
    ("child", "children"), ("woman", "women"), ("man", "men"), ("bird", "birds"), ("city", "cities"), ("river", "rivers"),
    ("picture", "pictures"), ("farmer", "farmers"), ("window", "windows"), ("letter", "letters"), ("song", "songs"),
]  # fmt: skip
Noun = tuple[str, str]
IS, ARE = (model.prompts(word)[0].ids[0] for word in (" is", " are"))


def prompt(noun: str) -> str:
    return f"The {noun} near the old gate"


def are_over_is(logits: Tensor) -> Tensor:
    return logits[:, ARE] - logits[:, IS]


plain = [are_over_is(model.run([prompt(pair[i]) for pair in PAIRS], logits="last").logits) for i in (0, 1)]
print(f"logit of 'are' minus 'is': {plain[0].mean():.1f} after singular nouns, {plain[1].mean():.1f} after plural ones")
order = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(0)).tolist()
trained, held_out = [PAIRS[i] for i in order[:12]], [PAIRS[i] for i in order[12:]]


# %%
def swapped(pairs: list[tuple[Noun, Noun]], subspace: pc.Subspace, grad: bool = False) -> Tensor:
    """How far the verb follows the source's number: positive where it does. Each pair is swapped both ways."""
    sources = [prompt(source[1]) for source, _ in pairs] + [prompt(source[0]) for source, _ in pairs]
    targets = [prompt(target[0]) for _, target in pairs] + [prompt(target[1]) for _, target in pairs]
    edit = pc.Rotate(pc.source(sources, at=NOUN), subspace=subspace, site=SITE, at=NOUN)
    sign = torch.tensor([1.0] * len(pairs) + [-1.0] * len(pairs))
    return sign * are_over_is(model.run(targets, edit, grad=grad, logits="last").logits)


subspace = pc.Subspace(576, rank=1, seed=0)
optimizer = torch.optim.Adam(subspace.parameters(), lr=0.02)
every = list(itertools.permutations(trained, 2))
draw = torch.Generator().manual_seed(0)
for step in range(25):
    batch = [every[i] for i in torch.randperm(len(every), generator=draw)[:6].tolist()]
    loss = torch.nn.functional.softplus(-swapped(batch, subspace, grad=True)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 6 == 0:
        print(f"step {step}: loss {loss.item():.2f}")

# %% [markdown]
# ## Held-out nouns

# %%
test = list(itertools.permutations(held_out, 2))[:40]
subspaces = {
    "the whole vector": pc.Subspace(576, 576, directions=torch.eye(576)),
    "the trained direction": subspace,
    "a random direction": pc.Subspace(576, 1, seed=1),
}
shares = {}
for name, used in subspaces.items():
    with torch.no_grad():
        result = swapped(test, used)
    shares[name] = float((result > 0).float().mean())
    print(f"{name}: the verb follows the source in {shares[name]:.0%} of {len(result)} swaps")
assert shares["the trained direction"] > 0.9
assert shares["a random direction"] < 0.1
