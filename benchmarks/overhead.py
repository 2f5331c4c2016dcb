"""What an edited forward costs over the bare model's: ``model.run`` with no, one and thirty edits, 128 tokens.

Pairs of calls, bare and edited, take turns; the figure is the median ratio of their CPU times.
"""

import statistics
from collections.abc import Callable

import torch
from common import Target, count_option, interleave, ratio, write
from experiment import Experiment

import patchclamp as pc

LENGTH = 128


def main() -> None:
    pairs = count_option(__doc__, "pairs", 25)
    experiment = Experiment.load(5)
    model, vector = experiment.model, experiment.vector
    ids = torch.randint(0, experiment.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    one = [pc.Add(vector, site="mlp_out.15", at=-1)]
    many = [pc.Add(vector, site="mlp_out", at=-1)]

    @torch.no_grad()
    def bare() -> object:
        return model.module(ids, use_cache=False).logits

    def edited(edits: list[pc.Edit]) -> Callable[[], object]:
        return lambda: model.run(ids, edits).logits

    @torch.no_grad()
    def around() -> object:
        with model.editing(one):
            return model.module(ids, use_cache=False).logits

    forms = {"no edit": edited([]), "1 edit": edited(one), "30 edits": edited(many), "1 edit, model.editing": around}
    found, seconds = {}, {}
    for name, form in forms.items():
        interleave({"bare": bare, name: form}, 2)
        times = interleave({"bare": bare, name: form}, pairs)
        found[name] = 100 * (ratio(times[name], times["bare"]) - 1)
        seconds[name] = times
        print(f"  {name:<22} {found[name]:+6.2f} % over {1e3 * statistics.median(times['bare']):.1f} ms")
    rows = [
        Target(f"one forward of {LENGTH} tokens, {name}: more than bare", found[name], 3, "%", True)
        for name in forms
        if name != "no edit"
    ]
    write("overhead", {"percent_over_bare": found, "seconds": seconds}, rows)


if __name__ == "__main__":
    main()
