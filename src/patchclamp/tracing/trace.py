"""The result of a causal trace: clean, corrupted and restored numbers, and the effects they make."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.interventions import CLEAN, CORRUPTED, PlannedResult
from patchclamp.tracing.restored import OnePrompt, RestoredReads

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class Trace(RestoredReads, OnePrompt, PlannedResult):
    """A causal trace: what a model says cleanly, with its subject corrupted, and with one state set back.

    ``data`` holds the restored runs' numbers, with dims ``site, layer, position, sample``, for each thing that was read
    (by default ``probability`` and ``log_odds`` of the answer). Effects are differences of these, in the units of the read.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT", arXiv 2202.05262, section 2.1.
    """

    kind: ClassVar[str] = "trace"

    @property
    def clean(self) -> "xr.Dataset":
        """The clean run's numbers."""
        return self._pick(CLEAN)

    @property
    def corrupted(self) -> "xr.Dataset":
        """The corrupted runs' numbers, a sample each."""
        return self._pick(CORRUPTED)

    @property
    def answer(self) -> str | None:
        """The token whose probability was read."""
        answer: str | None = self.record["answer"]
        return answer

    @property
    def agreement(self) -> dict[str, Any] | None:
        """For an estimate: how far it is from exactly run cells; None for an exact trace."""
        agreement: dict[str, Any] | None = self.record.get("agreement")
        return agreement

    def total_effect(self, read: str | None = None) -> "xr.DataArray":
        """What the corruption takes away, clean - corrupted, ``[sample]``."""
        name = self.named(read)
        return (self.dataset[CLEAN + name] - self.dataset[CORRUPTED + name]).rename(name)

    def indirect_effect(self, read: str | None = None) -> "xr.DataArray":
        """What restoring a state brings back, restored - corrupted, ``[site, layer, position, sample]``."""
        name = self.named(read)
        return (self.dataset[name] - self.dataset[CORRUPTED + name]).rename(name)

    def mean(self, read: str | None = None) -> "xr.Dataset":
        """Indirect ``effect`` over the samples with its ``standard_error`` (NaN for one sample), ``[site, layer, position]``."""
        effect = self.indirect_effect(read)
        count = effect.sizes["sample"]
        error = effect.std("sample", ddof=1) / np.sqrt(count) if count > 1 else effect.mean("sample") * np.nan
        return effect.mean("sample").to_dataset(name="effect").assign(standard_error=error)

    def relative(self, read: str | None = None) -> "xr.DataArray":
        """Mean indirect effect as a share of the mean total effect: 0 brings nothing back, 1 everything.

        Raises:
            InputError: The corruption had no effect.
        """
        total = self.total_effect(read).mean("sample")
        if float(abs(total)) == 0:
            raise InputError("the corruption changed nothing, so there is nothing to be restored; raise noise")
        return self.mean(read)["effect"] / total

    def layer_means(self, read: str | None = None) -> "xr.DataArray":
        """Mean indirect effect of each layer over the tokens from the subject on, ``[site, layer]``."""
        return self.mean(read)["effect"].isel(position=slice(self.subject[0], None)).mean("position")

    def _pick(self, prefix: str) -> "xr.Dataset":
        import xarray as xr

        return xr.Dataset({name: self.dataset[prefix + name] for name in self.reads})

    def __repr__(self) -> str:
        name, settings = self.reads[0], {**self.record["parameters"], **self.record["resolved"]}
        clean, corrupted = float(self.clean[name]), float(self.corrupted[name].mean())
        answer_text = f" of {self.answer!r}" if self.answer is not None else ""
        effects = self.mean()["effect"].transpose("site", "layer", "position")
        site, layer, position = np.unravel_index(int(abs(effects.values).argmax()), effects.shape)
        state = f"{effects['site'].values[site]}.{effects['layer'].values[layer]}"
        effect = float(effects.values[site, layer, position])
        lines = [
            f"Trace of {''.join(self.tokens)!r}: {', '.join(self.reads)}{answer_text}",
            f"noise      {settings['noise']:g} x {settings['std']:.3g} (embeddings of {settings['std_of']}), "
            f"{settings['samples']} samples",
            f"{name:<10} clean {clean:.4g}, corrupted {corrupted:.4g}: total effect {clean - corrupted:.4g}",
            f"largest    {effect:.4g} at {state}, position {position} {self.tokens[int(position)]!r}",
        ]
        if self.agreement is not None:
            lines.append(f"estimate   {self.agreement['said']}")
        return "\n".join(lines)
