# %% [markdown]
# # Train a subspace: where does the model keep the country?
#
# Distributed alignment search (Geiger et al., 2024): find the few directions of the residual stream in which swapping the
# coordinates of two runs swaps their answers. A subspace is trained on some pairs of countries and tested on countries it has
# not seen, beside a random subspace of the same rank.

# %%
import itertools

import torch

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
model.module.requires_grad_(False)
PROMPT = "The capital of {} is"
SITE, RANK = "resid_post.23", 8

# %% [markdown]
# Countries and capitals of one token that the model knows.

# %%
single = [
    (c.name, " " + c.capital)
    for c in pc.catalogue.capitals()
    if len(model.tokens(" " + c.name)) == 1 and len(model.tokens(" " + c.capital)) == 1
]
top = model.run([PROMPT.format(name) for name, _ in single], logits="last").logits
ids = [model.prompts(capital)[0].ids[0] for _, capital in single]
ranks = (top > top.gather(1, torch.tensor(ids)[:, None])).sum(1)
known = [pair for pair, rank in zip(single, ranks.tolist(), strict=True) if rank < 3]
half = len(known) // 2
trained, held_out = known[:half], known[half:]
print(f"{len(known)} countries: {len(trained)} to train on, {len(held_out)} held out")


# %%
def interchange(pairs: list[tuple], subspace: pc.Subspace, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the target prompts after the swap, and the sources' answers."""
    sources = [PROMPT.format(source) for (source, _), _ in pairs]
    targets = [PROMPT.format(target) for _, (target, _) in pairs]
    edit = pc.Rotate(pc.source(sources, at="last"), subspace=subspace, site=SITE, at="last")
    wanted = torch.tensor([model.prompts(answer)[0].ids[0] for (_, answer), _ in pairs])
    return model.run(targets, edit, grad=grad, logits="last").logits, wanted


def success(pairs: list[tuple], subspace: pc.Subspace) -> float:
    """Share of pairs in which the source's capital beats the target's."""
    logits, wanted = interchange(pairs, subspace)
    own = torch.tensor([model.prompts(answer)[0].ids[0] for _, (_, answer) in pairs])
    return float((logits.gather(1, wanted[:, None]) > logits.gather(1, own[:, None])).float().mean())


# %%
every = list(itertools.permutations(trained, 2))
subspace = pc.Subspace(576, RANK, seed=0)
optimizer = torch.optim.Adam(subspace.parameters(), lr=0.02)
order = torch.Generator().manual_seed(0)
for step in range(30):
    batch = [every[i] for i in torch.randperm(len(every), generator=order)[:8]]
    logits, wanted = interchange(batch, subspace, grad=True)
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}: loss {loss.item():.2f}")

# %%
test = list(itertools.permutations(held_out, 2))[:40]
found, chance = success(test, subspace), success(test, pc.Subspace(576, RANK, seed=1))
print(f"held-out pairs that take the source's capital: {found:.2f} with the trained subspace, {chance:.2f} with a random one")
assert found > chance + 0.3
