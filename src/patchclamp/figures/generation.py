"""Generated text, token by token."""

from typing import TYPE_CHECKING

from patchclamp.figures.style import styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.interventions import Generation

_LINE = 96


def figure(generation: "Generation") -> "Figure":
    """Draw each prompt and what was generated after it; new tokens alternate in shade so that their borders show."""
    lines: list[list[tuple[str, str]]] = []
    for prompt, tokens in zip(generation.prompts, generation.tokens, strict=True):
        lines.append([(visible(prompt, _LINE), "0.45")])
        row: list[tuple[str, str]] = []
        for number, token in enumerate(tokens):
            text = visible(token, 24)
            if sum(len(t) for t, _ in row) + len(text) > _LINE:
                lines.append(row)
                row = []
            row.append((text, "#1f3b73" if number % 2 else "#b8451f"))
        lines.append(row)
    with styled() as make:
        fig: Figure = make(figsize=(7.2, 0.19 * len(lines) + 0.3))
        axis = fig.add_axes((0.01, 0.02, 0.98, 0.96))
        axis.set_axis_off()
        for number, line in enumerate(lines):
            column = 0
            for text, colour in line:
                axis.text(
                    column / (_LINE + 2),
                    1 - (number + 0.6) / max(len(lines), 1),
                    text,
                    color=colour,
                    family="monospace",
                    fontsize=7,
                )
                column += len(text)
        return fig
