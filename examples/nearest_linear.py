# %% [markdown]
# # The nearest of N points picks the linear map
#
# A network whose regions can be counted and looked at: 64 points, a linear map each. What do its regions say, where does a line
# cross them, and how far does its output jump there? One linear map and shuffled labels are the controls.

# %%
import torch

import patchclamp as pc

torch.set_num_threads(1)
digits = pc.catalogue.mnist()
train, test = (images.flatten(1).float() / 255 for images in (digits.train_images[:6000], digits.test_images))
labels, truth = digits.train_labels[:6000], digits.test_labels


def trained(regions, targets):
    network = pc.polytopes.NearestLinear(784, 10, regions, learn_points=True).place(train)
    network.fit(train, targets, epochs=4)
    network.eval()
    print(f"{regions} regions, {network.parameter_count:,} numbers: {accuracy(network):.3f}")
    return network


def accuracy(network):
    return float((network(test).argmax(1) == truth).float().mean())


# %%
one, several = trained(1, labels), trained(64, labels)
shuffled = trained(64, labels[torch.randperm(6000, generator=torch.Generator().manual_seed(0))])
assert accuracy(several) > accuracy(one) > 0.8
assert accuracy(shuffled) < 0.3

# %% [markdown]
# What the regions alone say: the commonest class of the training images in each.

# %%
counts = torch.zeros(64, 10).index_put_((several.region(train), labels), torch.ones(6000), accumulate=True)
vote = float((counts.argmax(1)[several.region(test)] == truth).float().mean())
print(f"the regions alone: {vote:.3f}; the maps inside them add {accuracy(several) - vote:+.3f}")

# %% [markdown]
# From a zero to a one: every region on the way, exactly, with what it says.

# %%
zero, one_ = (train[labels == digit][0] for digit in (0, 1))
line = several.segment(zero, one_)
for region, start in zip(line.region.tolist(), [0.0, *line.t.tolist()], strict=True):
    print(f"from t = {start:.2f}: region {region}, mostly {int(counts[region].argmax())}")

# %% [markdown]
# A ReLU network is continuous. This one jumps at its faces, by so much of its output:

# %%
jumps = several.face_jumps(test)
print(jumps[["jump", "map_distance"]].describe().loc[["25%", "50%", "75%"]].round(2))
assert jumps["jump"].median() > 0.05
