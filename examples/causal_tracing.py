# %% [markdown]
# # Where does a model keep a capital?
#
# Noise on the country's embedding makes the model forget its capital. One state set back to the clean run's brings it back,
# if that state holds the fact.

# %%
import pandas as pd

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
trace = model.causal_trace("The capital of France is", subject="France", samples=3)
print(trace)
trace.figure()

# %% [markdown]
# The country's own token holds the answer in the early layers, the last token in the late ones. States before the country
# are a control: noise cannot reach them, so restoring them does nothing.

# %%
share = trace.relative().sel(site="resid_post")
print(share.sel(layer=[0, 6, 12, 18, 24, 29]).to_pandas().round(2))
assert float(share.sel(layer=0, position=3)) > 0.9
assert float(share.sel(layer=29, position=4)) > 0.9
assert float(abs(share.sel(position=[0, 1, 2])).max()) == 0

# %% [markdown]
# ## Does it hold for other countries?

# %%
countries = ["Spain", "Japan", "Italy", "Egypt"]
facts = [(f"The capital of {name} is", name) for name in countries]
average = model.trace_facts(facts, sites="resid_post.0,8,16,24,29", samples=2)
mean = average.mean().sel(site="resid_post")
early, late = "last subject token", "last token"
print(mean["effect"].sel(role=[early, late]).to_pandas().round(2))
assert mean["effect"].sel(layer=0, role=early) > 5 * abs(mean["effect"].sel(layer=0, role=late))

# %% [markdown]
# ## Which neurons?
#
# One gradient estimates the effect of every single MLP neuron; the strongest are run exactly, because an estimate alone can
# be wrong.

# %%
neurons = model.neuron_importances("The capital of France is", subject="France", samples=3, verify=10)
print(neurons)
print(pd.DataFrame(neurons.verified()).head(5).round(4))
neurons.figure()
