# %% [markdown]
# # Any PyTorch module
#
# No transformer, no names: a small convolutional network on MNIST. Its sites are module paths. Which channels of the last
# convolution does each digit need?

# %%
import torch
from torch import nn

import patchclamp as pc

torch.manual_seed(0)
digits = pc.catalogue.mnist()
train = digits.train_images[:6000, None].float() / 255
test, labels = digits.test_images[:500, None].float() / 255, digits.test_labels[:500]
net = nn.Sequential(
    nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10)
)
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(300):
    chosen = torch.randint(len(train), (64,))
    loss = nn.functional.cross_entropy(net(train[chosen]), digits.train_labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
net.eval()

# %%
model = pc.wrap(net)
print(model.sites)
clean = model.run(test).logits.argmax(-1)
accuracy = float((clean == labels).float().mean())
print(f"accuracy on 500 test images: {accuracy:.3f}")

# %% [markdown]
# A convolution's vector is its channels, its positions are the pixels: `3:out.n4` is channel 4. One cell silences one channel in
# one image.

# %%
images = test[:200]
grid = model.sweep(
    images, pc.Zero(), sites=[f"3:out.n{channel}" for channel in range(12)], at="all", read=pc.Logits(), verify=5
)
print(grid.plan)
silenced = torch.from_numpy(grid.data.squeeze().values).argmax(-1)  # [image, channel]
right = (silenced == labels[:200, None]).float()
for digit in range(10):
    drop = (clean[:200] == labels[:200])[labels[:200] == digit].float().mean() - right[labels[:200] == digit].mean(0)
    print(f"{digit}: channel {int(drop.argmax())} matters most, accuracy falls by {drop.max():.2f}")
assert accuracy > 0.9
assert net(test).argmax(-1).equal(clean)  # the network is as it was
