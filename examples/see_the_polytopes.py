# %% [markdown]
# # See the polytopes
#
# A small network learns two moons. Its input space has two dimensions, so that every region on which it is one affine map can be
# drawn, exactly.

# %%
import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import nn

import patchclamp as pc

torch.set_num_threads(1)
x, label = (torch.from_numpy(part) for part in make_moons(600, noise=0.12, random_state=0))
BOX = ((-2.0, 3.0), (-1.75, 2.25))


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2)).double()


def trained(seed: int) -> nn.Sequential:
    net = network(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), label)
        loss.backward()
        optimizer.step()
    return net.eval()


net = trained(0)
model = pc.wrap(net)
plane = model.plane(box=BOX)
print(plane)
plane.figure()

# %% [markdown]
# The first layer draws straight lines. Those of the second bend wherever they cross one.

# %%
plane.figure(color="code", layers=1)

# %% [markdown]
# ## Nothing is missing
#
# The regions tile the box, and inside each the network is the map that the plane says.

# %%
data = plane.data
print(f"area of the box {5 * 4}, of all regions {float(data['area'].sum()):.12f}")
assert np.isclose(data["area"].sum(), 20, rtol=1e-12)
centres = plane.centres()
ours = (data["map"].values @ centres[..., None])[..., 0] + data["offset"].values
with torch.no_grad():
    theirs = net(plane.points(centres)).numpy()
print(f"largest difference from the network: {abs(ours - theirs).max():.1e}")
assert abs(ours - theirs).max() < 1e-10

# %% [markdown]
# A grid of samples finds the large regions only.

# %%
print(model.region_counts(plane, samples=300).round(2).to_string(index=False))

# %% [markdown]
# ## Do they gather where the network decides?
#
# Training is said to move regions toward the decision boundary (Humayun et al. 2024, arXiv 2402.15555). How many of the regions lie
# within 0.3 of it, over the share of the area that lies there: 1 is what chance gives. Control: the same place in the same network
# before training.

# %%


def near(places: np.ndarray, boundary: np.ndarray) -> float:
    return float((np.linalg.norm(places[:, None] - boundary, axis=-1).min(1) < 0.3).mean())


rows = []
anywhere = np.random.default_rng(0).uniform(*np.array(BOX).T, (3000, 2))
for seed in range(6):
    after, before = (pc.wrap(one).plane(box=BOX) for one in (trained(seed), network(seed)))
    ends = after.data["vertices"].values[after.data["boundary"].values]
    boundary = np.concatenate([ends[:, 0] + t * (ends[:, 1] - ends[:, 0]) for t in np.linspace(0, 1, 20)])
    area = near(anywhere, boundary)
    rows.append([near(one.centres(), boundary) / area for one in (after, before)])
    print(f"seed {seed}: trained {rows[-1][0]:.2f}, untrained {rows[-1][1]:.2f}")
gain = np.subtract(*np.array(rows).T)
print(f"mean difference {gain.mean():.2f}, standard error {gain.std(ddof=1) / len(gain) ** 0.5:.2f}")

# %% [markdown]
# Six networks do not show it: regions gather there before training too. Pictures of one network would have said otherwise.
