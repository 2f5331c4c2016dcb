"""The tables of the documentation that take minutes to make: ``python benchmarks/tables.py NAME ...``.

patchscopes, weight-lens, heads, window and optimisers; each says in its function which page shows it.
"""

import argparse
import random
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

import patchclamp as pc

SMOLLM2, STORIES = "smollm2-135m", "stories15m"


def patchscopes() -> None:
    """docs/patchscopes.md: identity prompt against logit lens, on 60 passages of 24 tokens."""
    model, draw, prompts = pc.load(SMOLLM2, dtype="float32"), random.Random(0), []
    books = list(pc.catalogue.gutenberg().values())
    while len(prompts) < 60:
        text = draw.choice(books)
        start = draw.randrange(2000, len(text) - 2000)
        ids = model.tokenizer(text[start : start + 400].split(" ", 1)[1])["input_ids"][:24]
        if len(ids) == 24:
            prompts.append(ids)
    seen = {
        "patchscope": model.patchscope(prompts, "resid_post", at="last", k=1).data,
        "lens": model.lens(prompts, "resid_post", at="last", k=1).data,
    }
    final = seen["lens"]["top_id"].values[:, -1, 0, 0]
    table = {}
    for name, data in seen.items():
        top = data["top_id"].values[:, :, 0, 0]
        surprisal = -np.log(np.maximum(data["final_probability"].values[:, :, 0], 1e-38))
        table[f"{name}: precision at 1"] = (top == final[:, None]).mean(0)
        shifted = [(top == np.roll(final, by)[:, None]).mean(0) for by in range(1, 60)]
        table[f"{name}: other passages"] = np.mean(shifted, 0)
        table[f"{name}: surprisal"] = surprisal.mean(0)
        table[f"{name}: 1.96 standard errors"] = 1.96 * surprisal.std(0, ddof=1) / 60**0.5
    print(pd.DataFrame(table).iloc[[0, 10, 16, 20, 22, 24, 26, 28, 29]].T.round(2).to_string())


def weight_lens() -> None:
    """docs/weight-lens.md: share of lists that pass, over every head's OV matrix."""
    model = pc.load(SMOLLM2, dtype="float32")
    found = model.weight_lens("ov.*.h*", directions=5, draws=10).passing()
    found["layers"] = found["matrix"].str.split(".").str[1].astype(int) // 5 * 5
    print(found.groupby("side")["passing"].mean().round(3).to_string())
    print(found.groupby(["side", "layers"])["passing"].mean().unstack().round(2).to_string())


def heads() -> None:
    """docs/heads.md: loss on repeated random tokens without induction heads, and without random ones."""
    model = pc.load(SMOLLM2, dtype="float32")
    best = model.head_scores(samples=4).strongest("induction", 10)["site"].tolist()
    generator = torch.Generator().manual_seed(99)
    blocks = [(100 + torch.randperm(40_000, generator=generator)[:32]).tolist() for _ in range(4)]
    texts = [block + block for block in blocks]
    means = model.record(texts, "z", at="all")["z"].mean((1, 2))
    rest = [str(site) for site in model.sites.expand("z.*.h*") if str(site) not in best]

    def mean_of(site: str) -> pc.Edit:
        _, layer, head = site.split(".")
        return pc.Patch(means[int(layer), int(head[1:])], site=site)

    def losses(sites: list[str], edit: Callable[[str], pc.Edit]) -> tuple[float, float]:
        """On the first and on the second block."""
        logs = model.run(texts, [edit(site) for site in sites]).logits[:, :-1].log_softmax(-1)
        each = -logs.gather(-1, torch.tensor(texts)[:, 1:, None])[..., 0]
        return float(each[:, :31].mean()), float(each[:, 32:].mean())

    print("nothing taken out: first and second block", np.round(losses([], mean_of), 2))
    for name, edit in (("zero", lambda site: pc.Zero(site=site)), ("mean", mean_of)):
        for count in (3, 5, 10):
            print(name, "best", count, np.round(losses(best[:count], edit), 2))
        anywhere = [random.Random(seed).sample(rest, 10) for seed in range(5)]
        alike = [_same_layers(best, rest, random.Random(seed)) for seed in range(5)]
        for where, several in (("anywhere", anywhere), ("in the same layers", alike)):
            second = [losses(sites, edit)[1] for sites in several]
            print(name, f"10 random heads {where}: {min(second):.2f} to {max(second):.2f}")


def _same_layers(best: list[str], rest: list[str], draw: random.Random) -> list[str]:
    """For each head another one of its layer, none twice."""
    chosen: list[str] = []
    for site in best:
        prefix = site.rsplit(".", 1)[0] + "."
        chosen.append(draw.choice([one for one in rest if one.startswith(prefix) and one not in chosen]))
    return chosen


def window() -> None:
    """docs/studies/facts.md: MLPs restored one layer at a time, and ten together."""
    from patchclamp.studies.facts import TEMPLATE, known_capitals

    model = pc.load(SMOLLM2, dtype="float32")
    known = known_capitals(model, most=12)[["country", "answer"]].values
    facts = [(TEMPLATE.format(country), country, answer) for country, answer in known]
    for width in (1, 10):
        found = model.trace_facts(facts, sites="mlp_out.0,1,2,3,5,6,8,12", window=width, samples=2)
        mean = found.mean().sel(site="mlp_out", role="last subject token")[["effect", "low", "high"]]
        print(f"window {width}, total effect {float(found.total_effect().mean()):.3f}")
        print(mean.to_dataframe()[["effect", "low", "high"]].round(3).T.to_string())


def optimisers() -> None:
    """docs/tuned-lens.md: SGD and Adam at 8,000 tokens."""
    model = pc.load(STORIES, dtype="float32")
    for name, rate in (("sgd", 1.0), ("adam", 1e-3), ("adam", 3e-3)):
        lens = model.tune_lens(
            "gutenberg", tokens=8000, length=128, batch=256, held_out=0.15, optimizer=name, learning_rate=rate
        )
        print(name, rate)
        print(lens.frame()[["site", "kl", "logit_lens_kl"]].round(1).T.to_string(header=False))


TABLES = {
    "patchscopes": patchscopes, "weight-lens": weight_lens, "heads": heads, "window": window, "optimisers": optimisers,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=list(TABLES), default=list(TABLES))
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        print(f"== {name}", flush=True)
        TABLES[name]()


if __name__ == "__main__":
    main()
