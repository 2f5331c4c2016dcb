"""The likeliest next tokens of each prompt, as bars."""

from typing import TYPE_CHECKING

from patchclamp.figures.style import canvas, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.interventions import Run


def figure(run: "Run", *, k: int = 10) -> "Figure":
    """Draw a run: one panel a prompt, the ``k`` likeliest outputs."""
    table = run.top(min(k, run.logits.shape[-1]))
    count = len(run.prompts)
    wide, high = min(count, 3), -(-count // 3)
    with canvas((3.4 * wide, (0.17 * k + 0.7) * high), high, wide, squeeze=False) as (fig, axes):
        for axis in axes.flat[count:]:
            axis.set_visible(False)
        for number, axis in zip(range(count), axes.flat, strict=False):
            rows = (
                table.iloc[number * k : (number + 1) * k]
                if len(table) >= count * k
                else table[table["prompt"] == run.prompts[number]]
            )
            axis.barh(range(len(rows)), rows["probability"], color="#1f3b73", height=0.7)
            axis.set_yticks(range(len(rows)), [visible(t) for t in rows["token"]])
            axis.invert_yaxis()
            axis.set_title(visible(run.prompts[number], 48))
            axis.set_xlabel("probability")
            axis.spines[["top", "right"]].set_visible(False)
        return fig
