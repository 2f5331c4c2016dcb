# %% [markdown]
# # When does the model know the capital, and which part tells it?
#
# The logit lens shows at which layer an answer appears. Direct logit attribution shows which component wrote it. We ask
# both about several countries, with the capital of another country as control.

# %%
import pandas as pd

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
lens = model.lens("The capital of Spain is Madrid, and the capital of Italy is Rome.")
print(lens.top(position=4).iloc[::-4, :3])
lens.figure()

# %% [markdown]
# ## The rank of the answer, layer by layer
#
# Rank 0 is the likeliest token. The control is the capital of the next country in the list.

# %%
capital = {c.name: " " + c.capital for c in pc.catalogue.capitals()}
countries = [
    name
    for name in ("Spain", "Italy", "Japan", "France", "Poland", "Norway", "Cuba")
    if len(model.tokens(capital[name])) == 1
]
prompts = [f"The capital of {name} is" for name in countries]
answers = [capital[name] for name in countries]
controls = answers[1:] + answers[:1]
ranks = pd.DataFrame(
    {
        kind: model.lens(prompts, at="last", targets=tokens).data["rank"].median(["prompt", "position"]).to_series()
        for kind, tokens in [("answer", answers), ("control", controls)]
    }
)
print(ranks.iloc[::3])
assert ranks["answer"].iloc[-1] < ranks["control"].iloc[-1]

# %% [markdown]
# ## Who writes it?
#
# What every head adds to the answer's logit, beyond what it adds to the control's.

# %%
found = []
for prompt, answer, control in zip(prompts, answers, controls, strict=True):
    parts = model.contributions(prompt, [answer, control], heads=True)
    assert float(abs(parts.data.sum("component") - parts.logit).max()) < 1e-3
    found.append(parts.difference(answer, control).isel(position=0).to_series())
table = pd.DataFrame(found, index=countries).T
heads = table[[".h" in name for name in table.index]]
best = heads.mean(axis=1).sort_values(ascending=False)
print(best.head(4).round(2))
print(heads.loc[best.index[0]].round(2))
assert (heads.loc[best.index[0]] > 0).mean() > 0.7
