# %% [markdown]
# # What is a head for, and what does a state hold?
#
# Two lenses. One reads weights: the strongest directions of a head's matrix, as tokens. The other reads states: put one into
# another prompt, and let the model say what it is.

# %%
import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
lens = model.weight_lens("ov.23.h4", directions=5, draws=10)
print(lens)
lens.figure()

# %% [markdown]
# A star marks lists that are more alike than 95 % of those of random matrices. This head moves the capital; what it writes is
# countries.

# %%
written = lens.frame().query("side == 'write'")
for row in written.to_dict("records"):
    print(row["direction"], row["sign"], "*" if row["passes"] else " ", *map(repr, row["tokens"][:6]))
passed = {token for row in written.query("passes")["tokens"] for token in row}
assert {" France", " Germany", "Japan"} <= passed

# %% [markdown]
# A direction is a vector like any other. Take the head's five strongest out of what attention writes there. Madrid loses
# nothing by it, its lead even grows, and five random directions do nothing: Madrid is written along weaker directions. A list
# of tokens is a hint at what a head is for; what it does to a prompt is another question.

# %%
import torch

directions = torch.stack([lens.vector("ov.23.h4", i, "write") for i in range(5)])
random = torch.randn(5, 576, generator=torch.Generator().manual_seed(0))
prompt, read = "The capital of Spain is", pc.LogitDifference(" Madrid", " Rome")
for name, basis in (("the head's", directions), ("random", random)):
    grid = model.sweep(prompt, pc.ProjectOut(basis), sites="attn_out.23", at=-1, read=read)
    print(f"without {name} directions: {grid.data.item():.2f}, with all: {grid.baseline.item():.2f}")

# %% [markdown]
# ## Ask the model
#
# The identity prompt asks for its last token again. At layer 24 the last state already says the capital, long before the logit
# lens can read it. As control, the state of another token of the prompt.

# %%
sites = "resid_post.20,24,26"
scope, plain = (look(prompt, sites, at="last", k=3) for look in (model.patchscope, model.lens))
print(scope.top(), plain.top(), sep="\n")
assert scope.top().loc["resid_post.24", 0] == " Madrid"
assert plain.top().loc["resid_post.24", 0] != " Madrid"
control = model.patchscope(prompt, sites, at=1, k=3)
assert " Madrid" not in control.top().values
