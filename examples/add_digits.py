# %% [markdown]
# # Adding a digit to a network
#
# A small residual network on MNIST. Adding the mean 3 minus the mean 1 to its activations makes ones into threes, and much else
# too. Where is it to be added? A gate says: where the pattern of neurons that are on is nearest that of a 1.

# %%
import torch

import patchclamp as pc
from patchclamp.studies import digits

torch.set_num_threads(1)
data = digits.images("mnist")
net = digits.network("residual", width=128)
training = digits.train(net, data, epochs=2)
print(f"accuracy on the 10,000 test images: {training.accuracy[-1]:.3f}")
model = pc.wrap(net)
print(model.sites)

# %% [markdown]
# Everything that the edits need comes from training images: the class means, and the share of a class's images that turn each
# neuron on. `2:out` is the residual block's output; only the linear head follows.

# %%
site = "2:out"
states = model.record(data.train[:20000], site)[site]
labels = data.train_labels[:20000]
means = torch.stack([states[labels == digit].mean(0) for digit in range(10)])
codes = torch.stack([(states[labels == digit] > 0).float().mean(0) for digit in range(10)])


# %%
def measure(edit: pc.Edit, a: int, b: int) -> tuple[float, float]:
    """Share of the test b's that are called a, and of the other eight digits that are still called right."""
    answers = model.run(data.test, edit).logits.argmax(-1)
    others = (data.test_labels != a) & (data.test_labels != b)
    kept = answers[others] == data.test_labels[others]
    return float((answers[data.test_labels == b] == a).float().mean()), float(kept.float().mean())


a, b = 3, 1
vector = means[a] - means[b]
rows = {
    "quarter": pc.Add(vector, 0.25, site=site),
    "half": pc.Add(vector, 0.5, site=site),
    "whole": pc.Add(vector, site=site),
    "whole, where the code is nearest b's": pc.Add(vector, site=site, where=pc.NearestCode(codes, b)),
    "whole, where the activation is": pc.Add(vector, site=site, where=pc.Nearest(means, b)),
    "whole, where the code is nearest a's (control)": pc.Add(vector, site=site, where=pc.NearestCode(codes, a)),
}
found = {name: measure(edit, a, b) for name, edit in rows.items()}
for name, (transfer, retention) in found.items():
    print(f"{name:<48} ones called three {transfer:.3f}   others still right {retention:.3f}")
assert found["whole"][0] > 0.9 > found["whole"][1]
assert found["whole, where the code is nearest b's"][0] > 0.9
assert found["whole, where the code is nearest b's"][1] > 0.95
assert found["whole, where the code is nearest a's (control)"][0] < 0.1

# %% [markdown]
# Only the head follows, so without a gate the addition is one and the same shift of the logits for every image: no feature is
# destroyed, and none could be spared.

# %%
shift = model.run(data.test, rows["whole"]).logits - model.run(data.test).logits
print("the shift of the ten logits:", [round(value, 1) for value in shift[0].tolist()])
print("its spread over 10,000 images:", f"{float(shift.std(0).max()):.1e}")
assert float(shift.std(0).max()) < 1e-4
