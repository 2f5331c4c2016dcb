# %% [markdown]
# # What does a layer know that the head cannot read?
#
# The logit lens reads every layer with a head that was trained for the last one. A tuned lens first translates the state:
# one affine map a layer, trained so that the head then predicts what the last layer predicts (Belrose et al. 2023). We
# train a small one, and measure both on text that neither has seen.

# %%
import pandas as pd

import patchclamp as pc

model = pc.load("stories15m", dtype="float32")
lens = model.tune_lens("gutenberg:bryant-stories", tokens=1536, length=64, batch=128, learning_rate=5e-3, held_out=0.25)
table = lens.frame()
print(table[["site", "kl", "logit_lens_kl"]].round(2))
assert (table["kl"] < table["logit_lens_kl"]).all()

# %% [markdown]
# ## The same sentence through both

# %%
prompt = "Lily and Tom went to the park. They wanted to play on the"
plain, tuned = model.lens(prompt), model.lens(prompt, tuned=lens)
print(pd.DataFrame({"logit lens": plain.top()[0], "tuned lens": tuned.top()[0]}))
tuned.figure(metric="kl")

# %% [markdown]
# ## Control: is it the translation, or would any map do?
#
# The same translators, given to the wrong depths.

# %%
shifted = pc.TunedLens(model)
shifted.load_state_dict({name: value.roll(1, 0) for name, value in lens.state_dict().items()})
means = pd.DataFrame(
    {
        name: model.lens(prompt, tuned=own).data["kl"].mean(["prompt", "position"]).to_series()
        for name, own in [("logit lens", None), ("tuned lens", lens), ("at wrong depths", shifted)]
    }
)
print(means.round(2))
assert means["tuned lens"].mean() < means["at wrong depths"].mean()
