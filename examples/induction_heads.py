# %% [markdown]
# # Induction heads
#
# On random tokens that come twice, a head that attends to what followed a token's earlier occurrence, and raises its logit,
# does induction. Every score has a control beside it, and an ablation says whether the heads matter.

# %%
import torch

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
scores = model.head_scores(samples=2, draws=50)
print(scores)
print(scores.strongest("induction", 5).round(3).to_string(index=False))
scores.figure()

# %%
best = scores.strongest("induction", 6)
chance = float(scores.data["null_high"].sel(score="induction").max())
print(f"with shuffled targets, or nothing repeated, no head exceeds {chance:.2f}")
assert (best["induction"] > 5 * chance).all()

# %% [markdown]
# ## Do they matter?
#
# Take them out and look at the second block of another passage. The control: as many other heads of the same layers.

# %%
sites = best["site"].tolist()
layers = [int(site.split(".")[1]) for site in sites]
others = [f"z.{layer}.h{head}" for head in (0, 1, 8) for layer in layers if f"z.{layer}.h{head}" not in sites]
others = list(dict.fromkeys(others))[: len(sites)]
block = (100 + torch.randperm(40_000, generator=torch.Generator().manual_seed(1))[:32]).tolist()


def loss(removed: list[str]) -> float:
    """Mean loss on the second block without some heads."""
    edits = [pc.Zero(site=site) for site in removed]
    logits = model.run([block + block], edits).logits[0, 32:63]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(block[1:])))


whole, without, control = loss([]), loss(sites), loss(others)
print(
    f"all heads {whole:.2f}, without {len(sites)} induction heads {without:.2f}, without {len(others)} others {control:.2f}"
)
assert without - whole > 3 * (control - whole)

# %% [markdown]
# ## A name that recurs
#
# Real text has repeats too. The same heads go back to them.

# %%
text = "Mr and Mrs Dursley were proud to be normal. Nobody knew that Mrs Dursley had a sister, and Mrs Dursley"
named = model.head_scores(text, " Dursley")
print(named.strongest("induction", 5).round(3).to_string(index=False))
assert set(named.strongest("induction", 3)["site"]) & set(sites)
