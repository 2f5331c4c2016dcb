"""The tuned lens: an affine translator a layer between the residual stream and the model's own head (Belrose et al. 2023)."""

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest, weights_digest
from patchclamp.core.errors import EditError, InputError, ModelError, SiteError
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Folder, Place, Repeats, Seed
from patchclamp.core.plain import UnsavableError, savable_as
from patchclamp.core.progress import Listener
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.lenses.logit import LogitLens
from patchclamp.lenses.published import locate, read
from patchclamp.lenses.training import Settings, tune
from patchclamp.lenses.translators import Translators
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import pandas as pd

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class TunedLens(Translators):
    """What the head is to read instead of the stream ``h`` after some layers: ``h + A h + b``, with an ``A`` and ``b`` a depth.

    A new one has ``A = 0`` and ``b = 0``, which is the logit lens. :meth:`train_on` trains it. Depth is
    the number of layers that the stream has passed: ``resid_pre.0`` has depth 0, ``resid_post.0`` and ``resid_pre.1`` have
    depth 1. There is one translator for each depth but the last, where the stream is what the head reads anyway.

    Source: Belrose et al. 2023, arXiv 2303.08112, section 3; added to ``h`` so that weight decay leads to the logit lens.

    Args:
        model: The model that it is for; the lens knows it by its weights and does not hold it.

    Raises:
        ModelError: The logit lens does not apply to the model.
    """

    def __init__(self, model: OpenModel) -> None:
        LogitLens(model)
        width = model.sites.width(Site("resid_post", model.sites.n_layers - 1))
        assert width is not None
        super().__init__(model.sites.n_layers, width, torch.promote_types(model.dtype, torch.float32), model.device)
        self.model = identity(model)
        """The model it is for: name, revision, class, type, and a hash of its weights, rounded to bfloat16.

        Weights in bfloat16, or in a wider type that holds the same values or is rounded to bfloat16 in one step, have one
        hash. Those that float16 has rounded before have another one as a rule.
        """
        self.trained_for: dict[str, Any] = dict(self.model)
        """The model it was trained for; another one only if it was loaded with ``force=True``."""
        self.training_report: dict[str, Any] = {}
        """Settings, loss by step, and the KL by layer on held-out text with that of the logit lens."""
        self.folder: Path | None = None
        """Where it is saved, as it was given: a folder, or an id of the Hugging Face hub."""
        self.revision: str | None = None
        """The revision of the Hugging Face repository, if one was asked for."""
        self._checked: tuple[Any, Any] = (None, None)

    @property
    def forced(self) -> bool:
        """Whether it is used on a model that it was not trained for."""
        return bool(self.trained_for["weights"] != self.model["weights"])

    @checked
    def translate(self, where: Site | int, states: Tensor) -> Tensor:
        """:meth:`forward` by site or depth, without a graph.

        Raises:
            SiteError: The stream is read in the middle of a layer there, or the model is not that deep.
        """
        with guarded(torch.no_grad()):
            translated: Tensor = self(states, where if isinstance(where, int) else depth_of(where))
        return translated

    @checked
    def check(self, model: OpenModel, sites: Sequence[Site] = ()) -> None:
        """Refuse a model that the lens is not for, or a site that it has no translator for.

        Raises:
            ModelError: The model's weights are others.
            SiteError: The stream is read in the middle of a layer there.
        """
        for site in sites:
            depth_of(site)
        module_ref, version = self._checked
        if module_ref is not None and module_ref() is model.module and version == model.weights_version():
            return
        model_identity = identity(model)
        if model_identity["weights"] != self.model["weights"]:
            raise ModelError(_mismatch(self.model, model_identity))
        self._checked = (weakref.ref(model.module), model.weights_version())

    def digest(self) -> str:
        """The digest of the translators, as they are now."""
        return digest(dict(self.state_dict()))

    def frame(self) -> "pd.DataFrame":
        """KL(final || layer) on held-out text in nats, a row a site: of this lens, of the logit lens, and their 95 % intervals.

        Raises:
            InputError: The lens was not trained here, so nothing was measured.
        """
        import pandas as pd

        if "held_out" not in self.training_report:
            raise InputError("this lens has no training report: it was not trained by model.tune_lens")
        return pd.DataFrame(self.training_report["held_out"]["by_site"])

    @checked
    def save_pretrained(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """Write ``config.json`` and ``model.safetensors``; the folder then holds the lens, or what it held before.

        Args:
            folder: The folder to write, in which files of others are left alone.
            overwrite: Take the place of another thing of patchclamp's too. A file in the way that is not of an earlier lens, or
                was changed since, becomes ``NAME.bak``.

        Raises:
            ModelError: A weight is not finite.
            InputError: Something else is in the way.
            StorageError: The system refused; the folder is as it was.
        """
        self._need_finite(str(folder))
        record = {
            "format_version": folders.TUNED_LENS.version,
            "kind": folders.TUNED_LENS.kind,
            "n_layers": self.weight.shape[0],
            "d_model": self.weight.shape[1],
            "model": self.model,
            "trained_for": self.trained_for,
            "training": self.training_report,
        }
        state = self.state_dict()
        target = folders.save(
            folder, folders.TUNED_LENS, record, lambda into: write_tensors(into / WEIGHTS, state), overwrite=overwrite
        )
        self.folder = target
        return target

    @classmethod
    @checked
    def train_on(
        cls,
        model: OpenModel,
        corpus: Any = "gutenberg",
        *,
        tokens: int = 250_000,
        length: int | None = None,
        passes: Repeats = 1,
        held_out: float = 0.1,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        batch: int = 512,
        seed: Seed = 0,
        chunk: int = 128,
        checkpoint: Folder | None = None,
        progress: bool | Listener | None = None,
    ) -> "TunedLens":
        """Train a tuned lens: at every depth an affine map of the stream, after which the head predicts what the last layer does.

        It minimises KL(final || lens), all depths in one pass of the model. Logits of ``chunk`` positions at one depth are
        alive at once, in float32.

        Source: Belrose et al. 2023, arXiv 2303.08112, section 3.

        Args:
            model: The model; nothing of it is changed.
            corpus: Texts, or ``"gutenberg"`` (or a book of it, as ``"gutenberg:carroll-alice"``), or lists of token ids;
                packed into sequences of equal length.
            tokens: The largest number of tokens to train on.
            length: The tokens of a sequence; by default 256, or the model's context if that is shorter.
            passes: The number of passes over the corpus, in a new order each time.
            held_out: The end of the corpus that is kept for the report, as a share of what is trained on.
            optimizer: ``"adam"``, or ``"sgd"`` with Nesterov momentum 0.9, as in the paper. The step size falls to 0.
            learning_rate: Step size; by default 0.002 for Adam and 1.0 for SGD (as in the paper, before the momentum's factor 10).
            weight_decay: The weight decay, which pulls to the logit lens.
            batch: The number of tokens of a step.
            seed: The seed of the order of the sequences.
            chunk: The number of positions that pass the head at once: the memory knob.
            checkpoint: A folder: a killed training goes on from there, and ends with the same bytes.
            progress: True for a bar, a function for events.

        Raises:
            ModelError: The logit lens does not apply to the model, or a loss is not finite.
            InputError: The corpus is empty or too small, a setting makes no sense, or the checkpoint is damaged; raised
                before any work.
        """
        size = min(256, model.context or 256) if length is None else length
        settings = Settings(tokens, size, passes, held_out, optimizer, learning_rate, weight_decay, batch, seed, chunk)
        lens = cls(model)
        lens.training_report = tune(lens, model, corpus, settings, checkpoint, progress)
        return lens

    @classmethod
    @checked
    def from_pretrained(
        cls, place: Place, model: OpenModel, *, revision: str | None = None, force: bool = False
    ) -> Self:
        """Load a lens: what :meth:`save_pretrained` wrote, or a checkpoint of the ``tuned-lens`` package.

        Args:
            place: A folder; a Hugging Face id; or one of the published lenses, as in
                ``"AlignmentResearch/tuned-lens/gpt2"``.
            model: The model to use it on.
            revision: The revision of the Hugging Face repository.
            force: Use it although it was trained for other weights, which ``trained_for`` and every result then say.

        Raises:
            InputError: There is no lens, or it is damaged: nothing but tensors is ever read from a ``params.pt``.
            ModelError: It was trained for another model or revision, or is of another size.
        """
        lens = cls(model)
        folder = locate(place, revision)
        if (folder / WEIGHTS).is_file():
            trained_for, report, state = _read(folder)
            if trained_for["weights"] != lens.model["weights"] and not force:
                raise ModelError(_mismatch(trained_for, lens.model) + "; force=True takes it all the same")
        else:
            trained_for, report, state = read(folder, model, lens.model, force)
        lens._fill(state, trained_for, str(place))
        lens.training_report, lens.folder, lens.revision = report, Path(place), revision
        return lens

    def _fill(self, state: dict[str, Tensor], trained_for: dict[str, Any], place: str) -> None:
        for name, value in self.state_dict().items():
            if name not in state or state[name].shape != value.shape:
                saved_shape = tuple(state[name].shape) if name in state else None
                raise ModelError(
                    f"the lens in {place!r} has {name} of shape {saved_shape}; this model ({self.model['name'] or 'live'}) "
                    f"needs {tuple(value.shape)}: one translator for each of its {len(self.weight)} layers"
                )
        self.load_state_dict({name: state[name] for name in self.state_dict()})
        self._need_finite(place)
        self.trained_for = trained_for

    def _need_finite(self, place: str) -> None:
        for name, value in self.state_dict().items():
            if not value.isfinite().all():
                depth = int((~value.isfinite()).nonzero()[0, 0])
                raise ModelError(f"the lens of {place!r} is damaged: its {name} at depth {depth} holds NaN or infinity")

    def extra_repr(self) -> str:
        """The summary that ``print(lens)`` shows."""
        return (
            f"{len(self.weight)} translators of width {self.weight.shape[1]} for {self.model['name'] or 'a live model'}"
        )


@checked
def tune_lens(
    model: OpenModel,
    corpus: Any = "gutenberg",
    *,
    tokens: int = 250_000,
    length: int | None = None,
    passes: Repeats = 1,
    held_out: float = 0.1,
    optimizer: Literal["adam", "sgd"] = "adam",
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    batch: int = 512,
    seed: Seed = 0,
    chunk: int = 128,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
) -> TunedLens:
    """Train a tuned lens for this model; the arguments are those of :meth:`patchclamp.TunedLens.train_on`."""
    return TunedLens.train_on(
        model, corpus, tokens=tokens, length=length, passes=passes, held_out=held_out, optimizer=optimizer,
        learning_rate=learning_rate, weight_decay=weight_decay, batch=batch, seed=seed, chunk=chunk,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def depth_of(site: Site) -> int:
    """How many layers the stream has passed at a site.

    Raises:
        SiteError: It is in the middle of one.
    """
    depths = {"resid_pre": 0, "resid_post": 1}
    if site.component not in depths or site.layer is None or site.unit is not None:
        raise SiteError(
            f"a tuned lens has no translator for {site}: it has one for the stream between layers, "
            "resid_pre and resid_post; without tuned=, the logit lens reads resid_mid too"
        )
    return site.layer + depths[site.component]


def identity(model: OpenModel) -> dict[str, Any]:
    """The identity by which a lens knows a model."""
    return {
        "name": model.source.name,
        "revision": getattr(model.config, "_commit_hash", None) or model.source.options.get("revision"),
        "class": type(model.module).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": weights_digest(model.module.state_dict().items(), torch.bfloat16),
    }


def _mismatch(expected: dict[str, Any], other: dict[str, Any]) -> str:
    expected_label, other_label = (
        (m["name"] or f"a live {m['class']}") + (f" (revision {m['revision']})" if m["revision"] else "")
        for m in (expected, other)
    )
    same_name = expected["name"] is not None and expected["name"] == other["name"]
    message = (
        f"the lens is for {expected_label}; this is {'the same name with other weights' if same_name else other_label}"
    )
    trained_dtype, other_dtype = expected.get("dtype"), other["dtype"]
    if "float16" not in (trained_dtype, other_dtype) or trained_dtype in (None, other_dtype):
        return message
    return (
        f"{message}, in {other_dtype} where that one was in {trained_dtype}: float16 rounds weights, so load it with "
        f"dtype={trained_dtype!r}"
    )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Read which model a saved lens was trained for, its report, and its translators."""
    with folders.opened(
        folder, folders.TUNED_LENS, optional=folders.COMMAND
    ) as config:  # a hub gives what is asked for
        trained_for = {name: config["trained_for"][name] for name in ("name", "revision", "class", "weights")}
        if not all(value is None or isinstance(value, str) for value in config["trained_for"].values()):
            raise ValueError("what it says of its model is no text")
        return {**config["trained_for"], **trained_for}, dict(config["training"]), read_tensors(folder / WEIGHTS)


def _as_record(lens: TunedLens, _: dict[str, Tensor]) -> dict[str, Any]:
    """Record a lens by its folder and digest. One that lies in no folder cannot be opened again."""
    folder = None if lens.folder is None else str(lens.folder)
    record = {"digest": lens.digest(), "folder": folder, "trained_for": lens.trained_for, "forced": lens.forced}
    record |= {} if lens.revision is None else {"revision": lens.revision}
    if folder is None:
        reason = "its tuned lens was not saved: lens.save_pretrained(folder) before use"
        raise UnsavableError(reason, record)
    return record


def _from_record(record: dict[str, Any], _: Mapping[str, Tensor], model: OpenModel | None) -> TunedLens:
    if model is None:  # a folder of edits or a direction, which may come from anybody, must not have a lens fetched
        raise EditError("a tuned lens stands in the record of a result alone")
    lens = TunedLens.from_pretrained(record["folder"], model, revision=record.get("revision"), force=record["forced"])
    if lens.digest() != record["digest"]:
        raise InputError(f"the tuned lens in {record['folder']!r} is no longer the one that the result was made with")
    return lens


savable_as("TunedLens", TunedLens, _as_record, _from_record)
