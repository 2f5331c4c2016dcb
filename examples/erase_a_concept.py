# %% [markdown]
# # Erase a concept, and see what it costs
#
# A direction for gender is found in the residual stream, erased, swapped and doubled. Beside every number stands the one of a
# random direction.

# %%
import patchclamp as pc
from patchclamp.studies import gender

model = pc.load("smollm2-135m", dtype="float32")
prompts, labels, people = gender.labelled("train")
site = "resid_post.14"
found = {
    name: model.fit_direction(name, prompts, labels, site, groups=people, holdout=0.2)
    for name in ("rlace", "leace", "random")
}
for name, direction in found.items():
    print(f"{name:<7}", {k: round(v, 3) for k, v in direction.report["held_out"].items()})

# %% [markdown]
# What the edits do to the pronoun after held-out people, and to text that speaks of no one's gender:

# %%
pairs = gender.pairs("test")[::9]
effects = model.layer_effects(
    {name: [direction] for name, direction in found.items()},
    pairs,
    gender.ANSWERS,
    gender.neutral_texts(2, characters=250),
)
print(effects.frame()[["direction", "edit", "bias", "bias_low", "bias_high", "kl"]].round(3).to_string(index=False))

# %% [markdown]
# Mean projection (`rlace`) and LEACE leave nothing to a linear probe; they do not leave the same model.

# %%
projected = model.projections(found["rlace"], *gender.labelled("test")[:2])
print(projected)
projected.figure()

# %% [markdown]
# A swapped king:

# %%
prompt = "Last week the king was late because"
for name, edit in (("plain", ()), ("swap", found["rlace"].swap())):
    print(f"[{name}]", prompt + model.generate(prompt, edit, max_new_tokens=12).texts[0])
