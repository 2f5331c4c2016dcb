# %% [markdown]
# # A name that comes again
#
# "Mr and Mrs Dursley ... a letter came for Mr Dursley": does the second name draw on the first? The logit lens and the importances
# of neurons, side by side; what the first name is worth; and the control: other words replaced instead.

# %%
import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
text = "Mr and Mrs Dursley kept a bakery by the harbour. One day a letter came for Mr"
later = " D"
print(model.tokens(text + " Dursley")[-4:])

# %% [markdown]
# ## Three pictures, one line a layer
#
# Noise is put on the first name; a neuron matters if its clean value brings the later name back. Its first token is the answer.

# %%
first = [i for i, token in enumerate(model.tokens(text)) if token in (" D", "urs", "ley")]
lens = model.lens(text)
neurons = model.neuron_importances(text, first, later, samples=2, verify=5)
pc.aligned([lens, neurons])

# %%
print(neurons.verified().round(4))
important = neurons.data["importance"].sum("layer").to_series()
assert important.idxmax() in (*first, len(lens.data["position"]) - 1)

# %% [markdown]
# ## What the first name is worth
#
# Surprisal of the later name's first token, in nats, as the text stands, with another name of as many tokens in place of the first,
# and with other words replaced instead.

# %%
variants = {
    "as it stands": text,
    "another name": text.replace(" Dursley", " Hargrave"),
    "another trade": text.replace("bakery", "pharmacy"),
    "another place": text.replace("harbour", "station"),
}
seen = model.lens(list(variants.values()), "resid_post.29", at=-1, targets=later)
surprisal = dict(zip(variants, seen.data["surprisal"].values.ravel(), strict=True))
for name, value in surprisal.items():
    print(f"{name:<14} {value:.2f}")
assert surprisal["another name"] > surprisal["as it stands"] + 3
assert max(surprisal["another trade"], surprisal["another place"]) < surprisal["as it stands"] + 1

# %% [markdown]
# ## Through which heads?
#
# Each head's output at the last position, taken from the run with the first name into the run without it.

# %%
grid = model.patch(text, variants["another name"], sites="z.*.h*", at=[-1], align="right", read=pc.LogOdds(later))
moved = (grid.data - grid.baseline).squeeze(drop=True)
best = moved.stack(unit=("layer", "head")).to_series().nlargest(4).round(2)
print(best)
assert best.iloc[0] > 1
