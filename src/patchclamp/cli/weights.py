"""``patchclamp weights MODEL --matrix ov.23.h4``: weight matrices as tokens."""

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import ModelName, Shared
from patchclamp.cli.output import show

command = App(name="weights", help="Singular vectors of weight matrices as tokens, beside those of random matrices.")


@command.default
def weights(
    model: ModelName,
    *,
    matrix: Annotated[list[str], Parameter(negative="")],
    directions: int = 5,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 8,
    through: Literal["embedding", "unembedding"] = "embedding",
    draws: int = 20,
    seed: int = 0,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Decode weight matrices.

    Args:
        matrix: ov.23.h4, qk.5.h*, mlp_pre.5, mlp_up.5 or mlp_out.5; may be repeated.
        directions: How many singular directions to decode.
        k: Tokens for each direction and sign.
        through: What reading sides are decoded through.
        draws: Random matrices to compare with.
        seed: Of the random matrices.
    """
    options: dict[str, Any] = {"directions": directions, "k": k, "through": through, "draws": draws, "seed": seed}
    lens = shared.opening.load(model).weight_lens(matrix, **options)
    frame = lens.frame()
    value = {"passing": lens.passing().to_dict("records"), "rows": frame.to_dict("records")}
    rows = [
        {
            "matrix": row["matrix"],
            "direction": f"{row['direction']}{row['sign']}",
            "side": row["side"],
            "passes": "*" if row["passes"] else "",
            "tokens": " ".join(map(repr, row["tokens"])),
        }
        for row in value["rows"]
    ]
    show(value, as_json=shared.as_json, table=rows, title=f"{lens!r}\n")
    shared.keep(lens, "weights", {"model": model, "matrix": matrix, **options})
