# %% [markdown]
# # Where does a model keep the country, and which head moves it?
#
# Two prompts differ in one word. We put the residual stream of one into the other, at every layer and token, and see how
# much of the other answer comes back. Then the same head by head, and a check that the head does it in other prompts too.

# %%
import pandas as pd

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
SPAIN, ITALY = "The capital of Spain is", "The capital of Italy is"
read = pc.LogitDifference(" Rome", " Madrid")

# %% [markdown]
# ## Layer by token
#
# Recovery is 0 where the patch changes nothing, and 1 where it brings back the source run's logit difference.

# %%
grid = model.patch(source=ITALY, into=SPAIN, sites="resid_post", at="each", read=read, verify=3)
print(grid.plan)
recovery = grid.relative("recovery").isel(prompt=0, site=0)
print(recovery.sel(layer=range(20, 27)).to_pandas().round(2))
grid.figure()

# %% [markdown]
# Between layers 22 and 24 the information moves from the country to the last token. Attention must have moved it.

# %%
heads = model.patch(source=ITALY, into=SPAIN, sites="z.*.h*", at="last", read=read)
by_head = heads.relative("recovery").isel(prompt=0, site=0)
print(by_head.to_series().sort_values(ascending=False).head(5).round(2))
layer, head = by_head.to_series().idxmax()
best = f"z.{layer}.h{head}"
print("the head:", best)

# %% [markdown]
# ## Held out
#
# One pair of prompts proves little. Does this head carry the answer for other countries, and does a head chosen without
# looking do as well?

# %%
pairs = [("France", "Greece"), ("Japan", "Egypt"), ("Cuba", "Kenya"), ("Poland", "Austria"), ("Norway", "Peru")]
capital = {c.name: " " + c.capital for c in pc.catalogue.capitals()}
control = "z.23.h0" if best != "z.23.h0" else "z.23.h1"
rows = []
for source, into in pairs:
    answers = [capital[source], capital[into]]
    if any(len(model.tokens(answer)) > 1 for answer in answers):
        continue
    row = {"source": source, "into": into}
    for site in (best, control):
        one = model.patch(
            source=f"The capital of {source} is",
            into=f"The capital of {into} is",
            sites=site,
            at="last",
            read=pc.LogitDifference(*answers),
        )
        row[site] = float(one.relative("recovery").values.item())
    rows.append(row)
table = pd.DataFrame(rows)
print(table.round(2))
assert table[best].mean() > 3 * abs(table[control].mean())
