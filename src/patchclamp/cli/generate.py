"""``patchclamp generate MODEL PROMPT``: text under edits, beside the unedited text."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from patchclamp.cli.options import EditOptions, ModelName, Prompts, Shared, Strings
from patchclamp.cli.output import show

command = App(name="generate", help="Generate text under edits, beside the text without them.")


@command.default
def generate(
    model: ModelName,
    prompt: Prompts,
    *,
    editing: EditOptions = EditOptions(),  # noqa: B008
    max_new_tokens: Annotated[int, Parameter(name=["-n", "--max-new-tokens"])] = 40,
    seed: int | None = None,
    temperature: float | None = None,
    samples: int = 1,
    stop: Strings = None,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Generate text.

    Args:
        prompt: One or more texts.
        max_new_tokens: How many tokens to add.
        seed: For sampling.
        temperature: Sample at this temperature; greedy without it.
        samples: How many texts of each prompt, with --temperature.
        stop: A text ends with any of these strings.
    """
    open_model = shared.opening.load(model)
    settings: dict[str, Any] = {} if temperature is None else {"do_sample": True, "temperature": temperature}
    settings |= {"num_return_sequences": samples} if samples != 1 else {}
    settings |= {"stop_strings": stop} if stop else {}
    edits = editing.build(open_model)
    plain = open_model.generate(prompt, max_new_tokens=max_new_tokens, seed=seed, **settings)
    result = (
        open_model.generate(prompt, edits, max_new_tokens=max_new_tokens, seed=seed, **settings) if edits else plain
    )
    rows = [
        {"prompt": p, "without edits": a, **({"with edits": b} if edits else {})}
        for p, a, b in zip(result.prompts, plain.texts, result.texts, strict=True)
    ]
    show({"fired": result.fired, "texts": rows}, as_json=shared.as_json) if shared.as_json else _print(rows)
    config = {
        "model": model, "prompt": prompt, "edit": editing.specs,
        "max_new_tokens": max_new_tokens, "seed": seed, "temperature": temperature,
        "samples": samples, "stop": stop,
    }  # fmt: skip
    shared.keep(result, "generate", config)


def _print(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for name in ("without edits", "with edits"):
            if name in row:
                show(f"[{name}] {row['prompt']}{row[name]}\n", as_json=False)
