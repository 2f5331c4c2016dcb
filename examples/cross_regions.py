# %% [markdown]
# # Every region between a seven and a two
# A network of ReLUs is one affine map in each region of its input space. Here we walk from one picture to another and look at every
# boundary on the way, and at the maps on both sides of it.

# %%
import torch

import patchclamp as pc
from patchclamp.studies import digits

torch.set_num_threads(1)
pictures = digits.images()
net = digits.network("mlp", width=128)
digits.train(net, pictures.head(10_000, 1000), epochs=2)
model = pc.wrap(net)
seven, two = pictures.test[0], pictures.test[1]

# %%
line = model.segment(seven, two)
print(line)
line.figure()

# %% [markdown]
# Neighbouring regions have nearly the same map: one neuron's row comes or goes.

# %%
apart = model.neighbour_distances(line)
maps = model.region_maps(line)
print(apart[["relative", "cosine"]].describe().round(4))
print("both ends:", {name: round(value, 3) for name, value in pc.polytopes.map_distance(maps[0], maps[-1]).items()})

# %% [markdown]
# Is it a long way? Pictures of the same digit lie fewer boundaries apart than others, also per unit of
# length.

# %%
labels = pictures.test_labels[:200]
pairs = [(i, j) for i in range(40) for j in range(i + 1, 40)][:300]
table = model.crossings(pictures.test[[i for i, _ in pairs]], pictures.test[[j for _, j in pairs]])
table["same digit"] = [bool(labels[i] == labels[j]) for i, j in pairs]
print(table.groupby("same digit")[["length", "crossings", "density", "flips"]].mean().round(1))

# %% [markdown]
# From a hidden layer on, fewer neurons are left to cross.

# %%
hidden = model.record(pictures.test[:2], "1:out")["1:out"]
print(model.segment(hidden[0], hidden[1], start="1"))
