"""A name that comes again: does a later occurrence draw on the earlier ones, and is the dark area under it surprise?

Helm-Burger ("Progress Report 4: logit lens redux", 2022) put nostalgebraist's logit lens beside neuron importances and their means
by layer, layers top to bottom and tokens left to right, for a text in which "Dursley" recurs, and left two questions open. If we
look at a later "Dursley", are the earlier ones seen to matter? And is the dark area below the name in the lens the mark of an
extra surprising word?

Here: the three pictures, aligned; what the earlier names are worth in nats, against replacing as many other tokens; which heads
carry it, tested on other passages with other names; and darkness against surprisal, at the name and elsewhere.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import patchclamp as pc
from patchclamp.studies import copying, darkness
from patchclamp.studies.names import NOVELS, passage, piece_of, recurring_passages, stand_in
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of, with_titles

NAME = " Dursley"
TEXT = (
    "Mr and Mrs Dursley kept a small bakery by the harbour. One winter day a letter came for Mr Dursley, with no stamp and no "
    'name on the back. "Read it to me," said Mrs Dursley'
)
"""Written for this study."""
ATTENTION = ("induction score", "shuffled")
"""Mean attention from the tokens of later occurrences to what followed the same token earlier, and its control."""


@dataclass(frozen=True)
class Dursley(StudyResult):
    """What the study found."""

    name: str
    lens: pc.Lens
    """The logit lens is taken on the part of the passage that comes before the last occurrence of the name."""
    neurons: pc.Neurons
    """Neurons restored one by one, with noise on the earlier occurrences; the answer is the name's first token."""
    scores: pc.HeadScores
    """Attention of every head from the later name to what followed the earlier one, with controls."""
    worth: pd.DataFrame
    """What the earlier occurrences are worth to each token of the last one, in nats."""
    heads: pd.DataFrame
    """Every head, by how much of that it carries."""
    together: pd.DataFrame
    """The strongest heads together, on the passage and on the others, beside random ones."""
    passages: pd.DataFrame
    """The other passages: what the earlier names are worth there."""
    darkness: pd.DataFrame
    """Every position of every passage: darkness of the lens, surprisal, entropy, and its place in the name."""
    model: str
    name_at: tuple[int, ...] = ()
    """Where the name begins in the passage."""
    sources: tuple[str, ...] = ()
    """Where the other passages are from."""

    experiment_heading = "The questions"

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "model": self.model,
            "name": self.name,
            "worth": self.worth.to_dict("records"),
            "strongest heads": self.heads.head(10).to_dict("records"),
            "heads together": self.together.to_dict("records"),
            "other passages": copying.over_passages(self.passages),
            "darkness": darkness.answers(self.darkness),
        }

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        total = self.worth[["earlier names", "other tokens"]].sum()
        return [
            f"{self.model}, the last{self.name!r} of the passage: replacing the earlier names by another one costs "
            f"{total.iloc[0]:.1f} nats, replacing as many other tokens {total.iloc[1]:.1f}.",
            copying.summary_sentence(self.passages),
            copying.heads_sentence(self.together),
            *darkness.summary_sentences(self.darkness),
        ]

    def text(self) -> str:
        """What was found, for a terminal."""
        strongest = self.heads.head(6)[["site", "share", *ATTENTION]]
        worth = {"Surprisal of its tokens, and how much more without the earlier names (nats)": self.worth}
        heads = {
            "Heads that carry it (share of the log-odds that comes back), and their induction scores on the name": strongest
        }
        other_tables = {
            "Heads together": self.together,
            f"Darkness, {self.darkness['passage'].nunique()} passages": pd.DataFrame(darkness.answers(self.darkness)),
        }
        return as_text(*self.findings(), *with_titles(worth, 2), *with_titles(heads), *with_titles(other_tables, 2))

    def files(self) -> StudyFiles:
        """Lens, neurons and heads; every table; lens and neurons side by side; darkness; and the report."""
        fig = darkness.figure(self.darkness)
        return StudyFiles(
            "A name that comes again",
            [
                ("Lens, neuron importances and their means by layer", [self.lens, self.neurons]),
                ("What was found", "\n\n".join(self.findings())),
                ("What the earlier names are worth (nats)", self.worth),
                ("Heads that carry it", self.heads.head(20)),
                ("The strongest heads together (share of the log-odds that comes back)", self.together),
                ("Other passages", self.passages),
                ("Is darkness surprise?", fig),
                ("Correlations and differences", pd.DataFrame(darkness.answers(self.darkness))),
                ("Neurons", self.neurons),
            ],
            tables={name: getattr(self, name) for name in ("worth", "heads", "together", "passages", "darkness")},
            figures={"side-by-side": pc.aligned([self.lens, self.neurons]), "darkness": fig},
            results={"lens": self.lens, "neurons": self.neurons, "heads": self.scores},
            evidence={"passages": list(self.sources), "name_at": list(self.name_at)},
            formats=("png", "svg", "pdf"),
        )


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    text: str = TEXT,
    name: str = NAME,
    other: str | None = None,
    passages: int = 12,
    samples: int = 4,
    seed: int = 0,
) -> Dursley:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for ``report.html``, pictures and tables; None to keep nothing.
        text: A text in which the name recurs; the last occurrence is looked at.
        name: The name, with its leading space.
        other: A name of as many tokens that takes the place of earlier occurrences; by default one is found.
        passages: How many passages of public-domain novels, with other names, to test on.
        samples: Draws of noise for the neurons.
        seed: The noise, the random heads, the random places and the passages are drawn with this seed.

    Raises:
        InputError: The name does not recur; the message shows the tokens.
    """
    name_passage = passage(model, text, name)
    other_name = stand_in(model, name_passage) if other is None else piece_of(model, other)
    if len(other_name) != len(name_passage.name):
        raise pc.InputError(
            f"{other!r} has {len(other_name)} tokens, {name!r} has {len(name_passage.name)}; they must be as many"
        )
    books = pc.catalogue.gutenberg()
    others = (
        recurring_passages(model, {title: books[title] for title in NOVELS}, passages, seed=seed) if passages else []
    )
    tokens = name_passage.until(0)
    lens = model.lens([tokens])
    neurons = model.neuron_importances(
        [tokens], name_passage.earlier(), int(name_passage.name[0]), samples=samples, seed=seed, verify=20
    )
    scores = model.head_scores(text, name, seed=seed)
    heads = _with_attention(copying.heads(model, name_passage, other_name), scores)
    stand_ins = {novel.label: stand_in(model, novel) for novel in others}
    result = Dursley(
        name, lens, neurons, scores,
        copying.worth(model, name_passage, other_name, seed=seed), heads,
        copying.together(model, name_passage, other_name, heads, [(novel, stand_ins[novel.label]) for novel in others], seed=seed),
        pd.DataFrame([copying.worth_of(model, novel, stand_ins[novel.label], seed=seed) for novel in others]),
        darkness.measure(model, [replace(name_passage, label=f"the text:{name}"), *others]),
        name_of(model), tuple(name_passage.starts), tuple(novel.label for novel in others),
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


def _with_attention(heads: pd.DataFrame, scores: pc.HeadScores) -> pd.DataFrame:
    """Each head with its induction score on the name, and the same with shuffled targets.

    The score is over the tokens *of* later occurrences; what a head carries is measured at the positions *before* them.
    """
    table = scores.strongest("induction", k=len(heads)).set_index("site")[["induction", "shuffled"]]
    return heads.join(table.set_axis(list(ATTENTION), axis=1), on="site")
