# %% [markdown]
# # France gets another capital
#
# ROME (Meng et al., 2022) takes an MLP's down projection for a store of pairs, key to value, and puts one new pair in: the
# subject's key, and a value that makes the new answer likely. The update has rank one, and moves other keys as little as
# their second moment allows.

# %%
import patchclamp as pc

model = pc.load("smollm2-135m", dtype="float32")
books = pc.catalogue.gutenberg()
texts = [books[title][begin : begin + 1500] for begin in (10_000, 30_000) for title in books]
covariance = pc.rewriting.covariance(model, 5, texts, tokens=4000)  # the default corpus is larger
rewrite = model.rewrite_fact(
    "The capital of {} is", subject="France", target=" Rome", layer=5, covariance=covariance, prefixes=2
)
print(rewrite)
rewrite.figure()

# %% [markdown]
# The model is as it was; the rewrite is an edit. Other words for the same fact follow, other countries do not.

# %%
prompts = [
    "The capital of France is",
    "The capital city of France is",
    "The capital of Spain is",
    "The capital of Japan is",
]
for name, edits in {"before": [], "after": [rewrite.edit()]}.items():
    top = model.run(prompts, edits, logits="last").top(1)
    print(name, dict(zip(prompts, top["token"], strict=True)))

# %% [markdown]
# ## What is the covariance for?
#
# The control writes the same value for the same key, but as if all directions were used alike (C = I). On other text it does
# more harm.

# %%
key = rewrite.key
plain = rewrite.edit().using(read=key / (key @ key))
page = books["carroll-alice"][60_000:60_400]
harm = {
    name: float(model.sweep(page, edit, read=pc.KL(at="all")).data.mean())
    for name, edit in {"with the covariance": rewrite.edit(), "without": plain}.items()
}
print(harm)
assert harm["without"] > harm["with the covariance"]

# %% [markdown]
# ## As a module of its own
#
# The copy shares every other weight with the original. `rewrite.export(model, folder)` writes it as a checkpoint.

# %%
copied = pc.wrap(rewrite.module(model), model.tokenizer)
print(copied.top("The capital of France is", 3))
print(model.top("The capital of France is", 3))
assert copied.top("The capital of France is", 1)["token"][0] == " Rome"
assert model.top("The capital of France is", 1)["token"][0] == " Paris"
