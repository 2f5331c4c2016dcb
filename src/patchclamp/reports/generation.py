"""The page of a generation: each text with its token borders."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section

if TYPE_CHECKING:
    from patchclamp.interventions import Generation


def parts(generation: "Generation") -> list[Section]:
    """What the page shows."""
    found = []
    for prompt, tokens in zip(generation.prompts, generation.tokens, strict=True):
        new = Markup("").join(Markup("<span>{}</span>").format(token) for token in tokens)
        found.append(
            Section(prompt, Markup('<p class="tokens"><span class="soft">{}</span>{}</p>').format(prompt, new))
        )
    return found
