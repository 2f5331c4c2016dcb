# %% [markdown]
# # Sweep an edit over a model
#
# The embedding of " Rome" is added to what MLPs, or attention, write at one token, in all layers up to some layer. Where, and
# at which dose, does it turn "The capital of Spain is" to Rome?

# %%
import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
prompt = "The capital of Spain is"
add = pc.Add(model.embedding(" Rome"))
read = pc.Probability([" Madrid", " Rome"])

# %% [markdown]
# What would it cost?

# %%
print(
    model.plan(
        prompt, add, sites=["mlp_out", "attn_out"], at="each", cumulative=True, over={"scale": [1, 4]}, read=read
    )
)

# %%
grid = model.sweep(
    prompt, add, sites=["mlp_out", "attn_out"], at="each", cumulative=True, over={"scale": [1, 4]}, read=read, verify=5
)
print(grid.data.sel(layer=29, answer=" Rome", scale=4).squeeze().to_pandas().round(3))
grid.figure()

# %% [markdown]
# The result is an `xarray.DataArray`: choose, average and plot it as you like. At which layer does the last token's
# addition first make Rome likelier than Madrid?

# %%
last = grid.data.isel(prompt=0, position=-1).sel(scale=4, site="mlp_out")
turned = last.sel(answer=" Rome") > last.sel(answer=" Madrid")
print("first layer:", int(turned.layer[turned.argmax("layer")]))

# %% [markdown]
# Keep it: numbers, figure, report, and all it takes to make it again.

# %%
folder = grid.save("out/sweep_an_edit")
assert pc.open(folder) == grid
