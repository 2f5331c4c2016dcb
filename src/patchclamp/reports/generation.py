"""The page of a generation: each text with its token borders."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section

if TYPE_CHECKING:
    from patchclamp.interventions import Generation


def parts(generation: "Generation") -> list[Section]:
    """The parts of the page, from top to bottom."""
    page_parts = []
    for prompt, tokens in zip(generation.prompts, generation.tokens, strict=True):
        continuation = Markup("").join(Markup("<span>{}</span>").format(token) for token in tokens)
        page_parts.append(
            Section(prompt, Markup('<p class="tokens"><span class="soft">{}</span>{}</p>').format(prompt, continuation))
        )
    return page_parts
