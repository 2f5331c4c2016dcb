"""What layers, weights and states say in the vocabulary."""

from collections.abc import Sequence
from typing import Any, Literal

from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener
from patchclamp.interventions.positions import At
from patchclamp.interventions.reads import Tokens
from patchclamp.lenses import contributions as _contributions
from patchclamp.lenses import curves as _curves
from patchclamp.lenses import logit as _logit
from patchclamp.lenses import patchscope as _patchscope
from patchclamp.lenses import weights as _weight_lens
from patchclamp.lenses.contributions import Contributions
from patchclamp.lenses.curves import LensCurves
from patchclamp.lenses.patchscope import Patchscope
from patchclamp.lenses.result import Lens
from patchclamp.lenses.tuned import TunedLens
from patchclamp.lenses.weights import WeightLens
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

Show = bool | Listener | None


class Lenses(OpenModel):
    """What layers, weights and states say in the vocabulary."""

    def lens(
        self,
        prompts: Any,
        sites: Sites = "resid_post",
        at: At = "all",
        *,
        k: int = 5,
        targets: Tokens = "next",
        tuned: TunedLens | None = None,
        chunk: int = _logit.CHUNK,
        batch_tokens: int = _logit.BATCH_TOKENS,
        progress: Show = None,
    ) -> Lens:
        """The logit lens: what each layer would predict if it were the last one (nostalgebraist 2020); or a tuned lens.

        The model's own final norm and head are applied to the residual stream; logits are float32 also for a model in
        half precision. It streams: logits of ``chunk`` rows (8 at least) are alive at once, and only numbers are kept of them.

        Args:
            prompts: As for :meth:`run`.
            sites: ``resid_post``, ``resid_pre`` or ``resid_mid``, with layers or without, or a list of them.
            at: Positions.
            k: How many of the likeliest tokens to keep.
            targets: ``"next"`` for the prompt's own next tokens; or a token (text or id), or a list with one a prompt.
            tuned: A lens from :meth:`tune_lens` or :meth:`TunedLens.from_pretrained`, whose translators stand between the
                stream and the head.
            chunk: Rows (positions times layers) that pass the head at once, 8 at least: the memory knob. (With fewer, a row's
                last bits would depend on how many pass beside it.)
            batch_tokens: Padded tokens a forward pass, whose states are held: the other one.
            progress: True for a bar, a function for events.

        Raises:
            ModelError: The model has no final norm or head, or is an encoder.
            InputError: A site, position, target or ``k`` does not fit; raised before any work.
        """
        return _logit.look(
            self, prompts, sites, at, k=k, targets=targets, chunk=chunk, batch_tokens=batch_tokens, tuned=tuned,
            progress=progress,
        )  # fmt: skip

    def tune_lens(self, corpus: Any = "gutenberg", **settings: Any) -> TunedLens:
        """Train a tuned lens for this model; settings as for :meth:`TunedLens.train_on`."""
        return TunedLens.train_on(self, corpus, **settings)

    def lens_curves(
        self,
        texts: Any,
        sites: Sites = "resid_post",
        at: At = "all",
        *,
        length: int = _curves.LENGTH,
        tokens: int | None = _curves.TOKENS,
        targets: str | int = "next",
        chunk: int = _logit.CHUNK,
        batch_tokens: int = _logit.BATCH_TOKENS,
        tuned: TunedLens | None = None,
        progress: Show = None,
    ) -> LensCurves:
        """:meth:`lens` over a corpus: every metric by layer, with intervals over sequences.

        Texts are packed into sequences of equal length. A few sequences are looked at at a time, and only their means and
        quartiles are kept, so memory does not grow with the number of positions.

        Args:
            texts: ``"gutenberg"``, ``"gutenberg:TITLE"``, or an iterable of texts or of lists of token ids.
            sites: As for :meth:`lens`.
            at: Positions of every sequence.
            length: Tokens of a sequence.
            tokens: How many tokens to read at most; None for all.
            targets: ``"next"``, or one token.
            chunk: As for :meth:`lens`.
            batch_tokens: As for :meth:`lens`.
            tuned: As for :meth:`lens`.
            progress: True for a bar, a function for events.

        Raises:
            InputError: The corpus is empty, unknown, or does not fill one sequence.
            ModelError: As for :meth:`lens`.
        """
        return _curves.lens_curves(
            self, texts, sites, at, length=length, tokens=tokens, targets=targets, chunk=chunk, batch_tokens=batch_tokens,
            tuned=tuned, progress=progress,
        )  # fmt: skip

    def contributions(self, prompt: Any, tokens: Tokens, at: At = "last", *, heads: bool = False) -> Contributions:
        """Direct logit attribution: what each component adds to the logit of each token (Elhage et al. 2021).

        The residual stream is the sum of what the embedding, attention and MLP of each layer add; with the final norm's
        scale frozen at its value, the logit is linear in it, so the parts sum to the logit. Where the model caps its
        logits, they sum to the logit before the cap.

        Args:
            prompt: One prompt.
            tokens: A token (text or id) or several.
            at: Positions.
            heads: Split attention into heads.

        Raises:
            ModelError: The logit is not such a sum in this model, or it is in half precision.
            InputError: More than one prompt, or a token or position that does not fit.
        """
        return _contributions.contribute(self, prompt, tokens, at, heads=heads)

    def patchscope(
        self,
        prompts: Any,
        sites: Sites = "resid_post",
        at: At = "all",
        *,
        target: Any = _patchscope.IDENTITY,
        into: str | None = None,
        into_at: At = "last",
        k: int = 5,
        max_new_tokens: int = 0,
        progress: Show = None,
    ) -> Patchscope:
        """Patchscopes: put each state into another prompt, and see what the model says of it.

        The numbers are those of :meth:`lens`, against the same final distribution, so the two can be laid side by side.

        Source: Ghandeharioun et al. 2024, arXiv 2401.06102.

        Args:
            prompts: The texts whose states are taken.
            sites: ``resid_post``, ``resid_pre`` or ``resid_mid``, with layers or without, or a list of them.
            at: Positions in them.
            target: The prompt that states are put into; by default the paper's token identity prompt.
            into: Site in the target, as ``"resid_post.2"``; by default the one that the state comes from.
            into_at: The one position in the target, as ``pc.token("x")``; its last token by default.
            k: How many of the likeliest next tokens to keep.
            max_new_tokens: Tokens to generate (greedily) after the target, for each state.
            progress: True for a bar, a function for events.

        Raises:
            ModelError: The model has no final distribution to compare with, as for :meth:`lens`.
            PositionError: The position is not in the target, or not one token; the message shows its tokens.
            InputError: A site, a position or ``k`` does not fit; raised before any work.
        """
        return _patchscope.look(
            self, prompts, sites, at, target=target, into=into, into_at=into_at, k=k, max_new_tokens=max_new_tokens,
            progress=progress,
        )  # fmt: skip

    def weight_lens(
        self,
        matrices: str | Sequence[str],
        *,
        directions: int = 10,
        k: int = 10,
        through: Literal["embedding", "unembedding"] = "embedding",
        draws: Repeats = 20,
        seed: Seed = 0,
        progress: Show = None,
    ) -> WeightLens:
        """The weight lens: singular vectors of weight matrices as tokens, beside those of random matrices.

        The norm's gain is folded in on each side that has one. What a direction reads is decoded through the embedding,
        what it writes through the final norm's gain and the unembedding.

        Source: Millidge and Black 2022; the control is ours.

        Args:
            matrices: ``"ov.23.h4"``, ``"qk.5.h*"``, ``"mlp_pre.5"``, ``"mlp_up.5"``, ``"mlp_out.0-3"``, or a list of them.
            directions: How many singular directions to decode, strongest first.
            k: Tokens for each direction and sign.
            through: What reading sides are decoded through.
            draws: Random matrices of the same shape and norm, decoded in the same way.
            seed: Of the random matrices.
            progress: True for a bar, a function for events.

        Raises:
            SiteError: There is no such matrix in this model (experts, recurrent layers, normalised queries).
            ModelError: The model normalises the stream itself, or a projection lies before its unembedding.
        """
        return _weight_lens.look(
            self, matrices, directions=directions, k=k, through=through, draws=draws, seed=seed, progress=progress
        )
