# %% [markdown]
# # Which side of every neuron
# A ReLU network's spline code says for each neuron on which side of it an input lies. Here: codes of digits as packed bits, how far
# apart they are, and whether their clusters are better than clusters of activations. (A single region holds one image only.)

# %%
import torch

import patchclamp as pc
from patchclamp.studies import digits

torch.set_num_threads(1)
pictures = digits.images()
net = digits.network("residual", width=128)
digits.train(net, pictures.head(10_000, 1000), epochs=2)
model = pc.wrap(net)
x, labels = pictures.test[:600], pictures.test_labels[:600].numpy()

codes = model.spline_codes(x, labels={"digit": labels})
print(codes)
print(codes.separation().round(3).to_string(index=False))
codes.figure()

# %% [markdown]
# The nearest other code mostly has the same digit, from any layer to the end.

# %%
for layer in codes.layers:
    nearest = codes.since(layer.name).knn(k=1).index[:, 0]
    print(
        layer.name, "to the end: the nearest code has the same digit for", (labels[nearest] == labels).mean().round(3)
    )

# %% [markdown]
# Are clusters of codes better than clusters of activations? Only if they are better than those of unit-norm activations and of
# pre-activations too, at as many clusters and as many rows. An untrained network is the control.

# %%
z = pc.polytopes.Network.of(net).preactivations(x)
name = codes.layers[-1].name
untrained = pc.polytopes.Network.of(digits.network("residual", width=128)).preactivations(x)[name]
found = pc.polytopes.cluster(
    z[name].detach(), z[name].detach().relu(), labels, k=10, algorithms=["k-means", "ward"],
    others={"untrained code": (untrained > 0).float(), "pixels": x},
)  # fmt: skip
print(found)
print(found.differences("unit norm").query("score == 'purity'").round(3).to_string(index=False))
found.figure()

# %% [markdown]
# What the clusters hold: the images nearest each centre.

# %%
found.figure(view="cards", algorithm="ward", form="hard code", pictures=x.reshape(-1, 28, 28), examples=8, most=9)

# %% [markdown]
# Language models have smooth gates. Their codes are soft: with SiLU the code is sigmoid(z), and the neuron is exactly code times z.

# %%
silu = pc.polytopes.activation("silu")
z = torch.linspace(-4, 4, 9)
print(torch.equal(silu.code(z) * z, z * torch.sigmoid(z)), silu.code(z).round(decimals=2).tolist())
print(
    "hard to soft:",
    {beta: round(float(pc.polytopes.beta_code(torch.tensor(1.0), beta)), 3) for beta in (0.0, 0.5, 0.9, 1.0)},
)
