# %% [markdown]
# # What lies between a picture and its adversarial example?
#
# Lee Sharkey's guess, when he was asked about adversarial examples and polytopes: some small perturbations point where many
# boundaries lie, so that later activations turn far away. Counted exactly here, on a network trained on MNIST, with controls: the
# way toward another picture, random signs, a Gaussian direction, and the same attack turned around, which makes the network surer.

# %%
import torch

import patchclamp as pc
from patchclamp.studies import digits

torch.set_num_threads(1)
pictures = digits.images()
module = digits.network("mlp", width=128)
digits.train(module, pictures.head(10_000, 1000), epochs=3)
net = pc.wrap(module)
x, labels = pictures.test[:40], pictures.test_labels[:40]

# %% [markdown]
# ## Paths of every kind

# %%
paths = net.adversarial_paths(x, labels, eps=0.15, box=(0, 1))
table = paths.summary().set_index("path")
print(table[["length", "crossings", "density", "least", "most", "flipped", "cosine"]].round(3).to_string())

# %% [markdown]
# The path to the adversarial example crosses more boundaries a unit of length than any control, and the activation after the last
# gate turns furthest. The attack turned around follows gradients as steep and crosses far less: to be sensitive is not enough.

# %%
assert table.loc["pgd", "least"] > table.drop(["pgd", "fgsm"])["most"].max()
assert table.loc["pgd", "cosine"] < table.drop(["pgd", "fgsm"])["cosine"].min()

# %% [markdown]
# ## Is it only that adversarial paths leave the pictures' box?
#
# Random signs leave it too. Without clipping every path of both kinds does, and the gap is wider.

# %%
free = net.adversarial_paths(x, labels, eps=0.15, box=(0, 1), clip=False, kinds=["pgd", "sign"])
print(free.summary().set_index("path")[["length", "density", "outside"]].round(3).to_string())

# %% [markdown]
# ## One path, neuron by neuron
#
# The same path as an exact segment: the crossings before the verdict changes, by layer.

# %%
line = net.segment(x[0], net.attack(x[:1], labels[:1], eps=0.15, box=(0, 1))[0])
place = line.record["changes"][0]
before = line.data.isel(crossing=line.data["t"].values <= place)
print(line)
print(
    {layer: int((before["layer"] == layer).sum()) for layer in line.per_layer},
    f"before the verdict changes at {place:.2f}",
)

# %%
figure = paths.figure()
