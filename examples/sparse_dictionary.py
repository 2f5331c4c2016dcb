# %% [markdown]
# # Taking activations apart
#
# A sparse dictionary writes an activation as a sum of few atoms. First on toy data, whose true features are known; then on the
# residual stream of a small model, where they are not, so that other methods stand beside it as controls.

# %%
import pandas as pd

import patchclamp as pc

d = pc.dictionaries
toy = d.ToyData.zipf(64, 24, active=2.0)
mod = d.MOD(width=96, k=3, centre=False).fit(toy.stream(batch_size=512, rows=40_000)).dictionary_
sgd = d.SGD(d.TopKEncoder(3), width=96, steps=300, learning_rate=0.01).fit(toy.stream(batch_size=512)).dictionary_
random = d.Dictionary(d.ToyData.zipf(96, 24, active=2.0, seed=5).features, d.OMP(3))
truth = pd.DataFrame(
    {name: d.recovery(it, toy).summary() for name, it in {"MOD": mod, "SGD": sgd, "random": random}.items()}
)
print(truth.loc[["mmcs", "recovered_0.9", "precision_0.9", "l0"]].round(2))
assert truth.loc["mmcs", "MOD"] > 0.95
assert truth.loc["mmcs", "random"] < 0.8
d.recovery(mod, toy).figure()

# %% [markdown]
# ## A real model
#
# Rows come while the model reads a book; the last ones are held out. PCA with as many components as the dictionary has active
# atoms, and K-means with as many centres as it has atoms, are what it has to beat.

# %%
model = pc.load("stories15m", dtype="float32")
stream = model.activation_stream("gutenberg:carroll-alice", "resid_post.3", tokens=8_000, batch_size=512)
training, held_out = stream.split(6_500)
k = 8
fits = {"MOD": d.MOD(width=384, k=k), "PCA": d.PCA(width=k), "K-means": d.KMeans(width=384)}
dictionaries = {}
for name, fit in fits.items():
    training.restart()
    dictionaries[name] = fit.fit(training).dictionary_
measured = {name: d.evaluate(it, held_out) for name, it in dictionaries.items()}
print(
    pd.DataFrame({name: one.summary() for name, one in measured.items()})
    .loc[["explained_variance", "l0", "dead"]]
    .round(2)
)
assert measured["MOD"].explained_variance > max(measured[name].explained_variance for name in ("PCA", "K-means"))
measured["MOD"].figure()

# %% [markdown]
# ## Into the model
#
# Reading the stream through the dictionary costs something: the KL from the model as it is, beside a reading through PCA.

# %%
prompt = "Lily and Tom went to the park. They wanted to play on the"
spliced = {
    name: pc.Splice(it, {}, keep_error=False, site="resid_post.3", at=slice(1, None))
    for name, it in dictionaries.items()
}
costs = pc.metrics.damage(model, spliced, [prompt]).summary().query("metric == 'kl'")[["edit", "mean"]]
print(costs.round(2).to_string(index=False))
