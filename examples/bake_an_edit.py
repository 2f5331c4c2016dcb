# %% [markdown]
# # An edit that needs no hooks
#
# A direction is removed from every state of the residual stream. The stream is the sum of what is written to it, so the same
# model comes of changing the weights that write: embeddings, attention outputs, MLP outputs.

# %%
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
texts = ["The film was wonderful and we", "The film was terrible and we"]
good, bad = model.record(texts, "resid_post.12", at=-1)["resid_post.12"]
centre = model.record(texts, "embed", at=-1)["embed"].mean(0)
STREAM = ["resid_pre", "resid_mid", "resid_post"]
edit = pc.ProjectOut(good - bad, about=centre, site=STREAM)

# %% [markdown]
# ## A checkpoint
#
# It is reloaded and compared when it is written. Any program of `transformers` opens it.

# %%
folder = Path(tempfile.mkdtemp()) / "without-it"
found = model.export(edit, folder, prompts=texts)
print(found)
assert found.log_probability < 5e-3

plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = "The old king of Spain had a daughter who"
with torch.no_grad():
    logits = plain(**tokenizer(prompt, return_tensors="pt")).logits[0].log_softmax(-1)
hooked, before = (model.run(prompt, edits).logits[0].log_softmax(-1) for edits in (edit, []))
print("checkpoint against hooks:", float((logits - hooked).abs().max()))
print("checkpoint against the original:", float((logits - before).abs().max()))
assert (logits - hooked).abs().max() < 5e-3 < (logits - before).abs().max()

# %% [markdown]
# ## Control: leave one weight out
#
# The copy shares all that is unchanged, so its weights can be looked at one by one. With one of the 61 changed weights as it
# was, the model is no longer the hooked one.

# %%
copied = model.baked(edit)
copied.model.layers[3].mlp.down_proj.weight = model.module.model.layers[3].mlp.down_proj.weight
with torch.no_grad():
    missing = copied(**tokenizer(prompt, return_tensors="pt")).logits[0].log_softmax(-1)
print("one weight left out:", float((missing - hooked).abs().max()))
assert (missing - hooked).abs().max() > 10 * (logits - hooked).abs().max()

# %% [markdown]
# ## What weights cannot say
#
# A layer's edit alone is no change of weights, nor is an addition where there is no bias. The error names what is near. For
# llama.cpp the addition is a control vector.

# %%
for other in (pc.ProjectOut(good - bad, site="resid_post.12"), pc.Add(good - bad, site="resid_post.12")):
    try:
        model.export(other, folder.parent / "other")
        raise AssertionError("it was not refused")
    except pc.EditError as error:
        print(error)
path = model.export_control_vector(pc.Add(good - bad, site="resid_post.12"), folder.parent / "good.gguf")
print(pc.control_vector(path))
