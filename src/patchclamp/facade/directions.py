"""Find directions that stand for a concept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Groups, Labels, Seed
from patchclamp.core.progress import Listener
from patchclamp.interventions.edits import Edits, as_edits
from patchclamp.interventions.positions import At
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

if TYPE_CHECKING:
    from torch import Tensor

    from patchclamp.directions.base import DirectionEstimator
    from patchclamp.directions.direction import Direction
    from patchclamp.directions.dose import DoseResponse
    from patchclamp.directions.effects import LayerEffects
    from patchclamp.directions.evaluation import Evaluation
    from patchclamp.directions.fitting import SiteRows
    from patchclamp.directions.projections import Projections
    from patchclamp.metrics.edited import Answer

Show = bool | Listener | None


class Directions(OpenModel):
    """Find directions that stand for a concept."""

    def fit_direction(
        self, method: "DirectionEstimator | str", prompts: Any, labels: Labels, site: str, **how: Any
    ) -> "Direction":
        """The direction of a concept at one site; for ``how`` see :meth:`fit_directions`.

        Raises:
            InputError: As there, or the site names several.
        """
        names = self.sites.expand([site])
        if len(names) != 1:
            raise InputError(f"{site!r} names {len(names)} sites; fit_directions gives one direction for each")
        return self.fit_directions(method, prompts, labels, site, **how)[0]

    def fit_directions(
        self,
        method: "DirectionEstimator | str",
        prompts: Any,
        labels: Labels,
        sites: Sites = "resid_post",
        *,
        at: At = "rest",
        groups: Groups = None,
        sample_weight: Sequence[float] | None = None,
        edits: Edits = (),
        sinks: Literal["skip", "keep"] = "skip",
        holdout: float = 0.25,
        seed: Seed = 0,
        progress: Show = None,
    ) -> "list[Direction]":
        """One direction of a concept at each site, fitted on the activations of prompts.

        Every chosen position of a prompt is a row with the prompt's label. Which positions are chosen decides much: a direction
        of the last tokens alone may do nothing.

        Args:
            method: An estimator of :mod:`patchclamp.directions`, or its name, as ``"leace"``.
            prompts: As for :meth:`run`.
            labels: One a prompt; two classes or more, or numbers.
            sites: Where; ``"resid_post"`` is every layer.
            at: Which tokens: ``"rest"`` (all but the first), ``"last"``, a span, where a word stands, one rule a prompt.
            groups: Prompts that belong together, as the two of a pair; held out together, and the pairs of paired methods.
            sample_weight: One a prompt.
            edits: Fit on the model under these.
            sinks: ``"skip"`` leaves out massive activations.
            holdout: Share of the groups that is not fitted on; ``direction.report["held_out"]`` measures on it, beside a random
                direction of the same rank.
            seed: Of the split and of the control.
            progress: True for a bar, a function for events.

        Raises:
            InputError: Lengths differ, one class only, or too few prompts to hold some out.
        """
        from patchclamp.directions import fitting

        return fitting.fit_directions(
            self, method, prompts, labels, sites, at=at, groups=groups, sample_weight=sample_weight, edits=edits, sinks=sinks,
            holdout=holdout, seed=seed, progress=progress,
        )  # fmt: skip

    def scrub(
        self,
        method: "DirectionEstimator | str",
        prompts: Any,
        labels: Labels,
        *,
        layers: Sequence[int] | None = None,
        at: At = "rest",
        progress: Show = None,
    ) -> "list[Direction]":
        """Erase a concept at every layer: each layer's direction is fitted with those before it already erased.

        One pass over the prompts, layer by layer; ``[d.erase() for d in model.scrub(...)]`` are the edits.

        Source: Belrose et al. 2023, arXiv 2306.03819, section 6 (concept scrubbing).

        Args:
            method: An estimator, or its name.
            prompts: As for :meth:`run`.
            labels: One a prompt.
            layers: Which; all by default.
            at: Which tokens are rows, and are edited.
            progress: True for a bar, a function for events.

        Raises:
            InputError: Lengths differ, one class only, or no such layer.
        """
        from patchclamp.directions import scrubbing

        return scrubbing.scrub(self, method, prompts, labels, layers=layers, at=at, progress=progress)

    def evaluate_direction(
        self,
        direction: "Direction",
        prompts: Any,
        labels: Labels,
        *,
        groups: Groups = None,
        answers: Sequence[str | int] | None = None,
        texts: Any = None,
        seed: Seed = 0,
        progress: Show = None,
    ) -> "Evaluation":
        """A direction on texts that it was not fitted on, beside a random direction of the same rank.

        Args:
            direction: Fitted on this model.
            prompts: Other prompts than those of the fit.
            labels: One a prompt.
            groups: Prompts that belong together; for the bias, pairs.
            answers: The two answers that the classes expect; with them bias and damage of the edits are measured.
            texts: For the damage; passages of books by default.
            seed: Of the probes and of the control.
            progress: True for bars, a function for events.

        Raises:
            InputError: The direction is of another model, lengths differ, or the bias has no pairs.
        """
        from patchclamp.directions import evaluation

        return evaluation.evaluate(
            self, direction, prompts, labels, groups=groups, answers=answers, texts=texts, seed=seed, progress=progress
        )

    def layer_effects(
        self,
        directions: "Mapping[str, Sequence[Direction]]",
        pairs: Any,
        answers: "Sequence[Answer]",
        texts: Any = None,
        *,
        edits: Sequence[str] = ("erase", "swap", "double"),
        about: Any = "mean",
        progress: Show = None,
    ) -> "LayerEffects":
        """What the edits of several methods do at each layer: to the answers after pairs of prompts, and to other text.

        Args:
            directions: For each method its directions, one a layer, as :meth:`fit_directions` gives them.
            pairs: (Prompt that expects the first answer, prompt that expects the second).
            answers: Two tokens, or two lists of tokens whose probabilities are added, as ``(" he", " she")``.
            texts: On which the divergence is measured; passages of books by default, ``()`` for none.
            edits: Of ``erase``, ``swap``, ``double``, ``to first`` and ``to second`` (every vector gets a class mean's
                coordinates: the negative and the positive intervention of AlterRep, Ravfogel et al. 2021, arXiv 2105.06965).
            about: From where they measure.
            progress: True for bars, a function for events.

        Raises:
            InputError: No pairs, unknown kinds of edit, or answers that are not single tokens.
        """
        from patchclamp.directions import effects

        return effects.layer_effects(
            self, directions, pairs, answers, texts, edits=edits, about=about, progress=progress
        )

    def dose_response(
        self,
        directions: "dict[str, Direction]",
        prompts: Any,
        answers: "Sequence[Answer]",
        amounts: Sequence[float],
        texts: Any = None,
        *,
        edit: Literal["add", "scale"] = "add",
        about: Any = "mean",
        progress: Show = None,
    ) -> "DoseResponse":
        """How far edits of growing size move the answers, and what they cost on other text.

        Args:
            directions: Of each method.
            prompts: After which the answers are read.
            answers: Two tokens, or two lists of tokens (their probabilities are added); the effect is the log-odds of the second
                over the first.
            amounts: Of the edit: distances between the class means for ``add``, factors for ``scale``.
            texts: On which divergence and loss are measured; passages of books by default.
            edit: What grows.
            about: From where ``scale`` measures.
            progress: True for bars, a function for events.

        Raises:
            InputError: No direction or amount, or answers that are not single tokens.
        """
        from patchclamp.directions import dose

        return dose.dose_response(
            self, directions, prompts, answers, amounts, texts, edit=edit, about=about, progress=progress
        )

    def projections(
        self, direction: "Direction", prompts: Any, labels: Labels, *, at: At = None, edits: Edits = ()
    ) -> "Projections":
        """The coordinates of prompts' activations along a direction, by class.

        Args:
            direction: Fitted on this model.
            prompts: Best others than those it was fitted on.
            labels: One a prompt.
            at: Which tokens; those of the fit by default.
            edits: Record under these.

        Raises:
            InputError: Lengths differ, one class only, or the direction is of another model.
        """
        from patchclamp.directions import projections

        return projections.projections(self, direction, prompts, labels, at=at, edits=edits)

    def rows(
        self,
        prompts: Any,
        site: str,
        at: At = "rest",
        *,
        edits: Edits = (),
        sinks: Literal["skip", "keep"] = "skip",
    ) -> "SiteRows":
        """The chosen tokens of prompts at one site as rows: what estimators and probes are fitted on.

        Args:
            prompts: As for :meth:`run`.
            site: Where.
            at: Which tokens.
            edits: Record under these.
            sinks: ``"skip"`` leaves out massive activations.

        Returns:
            ``x`` ``[row, d]``, and for each row the index of its ``prompt`` and its ``position`` there.

        Raises:
            InputError: The site names several.
        """
        from patchclamp.directions import fitting
        from patchclamp.interventions.record import record

        names = self.sites.expand([site])
        if len(names) != 1:
            raise InputError(f"{site!r} names {len(names)} sites; the rows are those of one")
        fitting.check_sinks(sinks)
        return fitting.site_rows(
            record(self, prompts, [str(names[0])], at, edits=list(as_edits(edits))), names[0], sinks
        )

    def reference(self, text: Any, site: str, at: At = "rest") -> "Tensor":
        """The mean activation of a reference text at one site, ``[d]``, about which an edit can be measured.

        Args:
            text: One prompt or several.
            site: Where.
            at: Which tokens; massive activations are left out.
        """
        return self.rows(text, site, at).x.double().mean(0)
