"""Whether what a scheme groups, rotates or mixes fits the widths and heads of a model."""

import math

from scripts.architectures import check_architecture
from scripts.fakequant.orders import has_hadamard
from scripts.run.errors import UserError

MX_BLOCK = 32  # of scripts/fakequant/mxfp4.py, which needs torch


def check_geometry(scheme: str, settings: dict, facts: dict) -> None:
    """Refuse a scheme, "quantizer/scheme", that the model's architecture or sizes do not allow.

    Raises:
        UserError: says which size, and what would fit; the caller adds where that stands.
    """
    quantizer = scheme.split("/", maxsplit=1)[0]
    check_architecture(quantizer, settings, facts["architecture"])
    widths = {"hidden_size": facts["hidden_size"], "intermediate_size": facts["intermediate_size"]}
    widths |= {"heads × head_dim": facts["heads"] * facts["head_dim"]}
    if "moe_intermediate_size" in facts:
        widths["moe_intermediate_size"] = facts["moe_intermediate_size"]
    row_groups = settings.get("row_groups", 1)
    for key in ("group_size", "row_groups"):
        size = settings.get(key, -1)
        misfit = next((name for name, width in widths.items() if size != -1 and width % size), None)
        if misfit:
            raise UserError(
                f"has {key} {size}, which does not divide {misfit}, {widths[misfit]}; choose a divisor of "
                f"{math.gcd(*widths.values())}"
            )
    sizes = {"hidden_size": facts["hidden_size"], "head_dim": facts["head_dim"]} | {
        f"{name} / row_groups {row_groups}": widths[name] // row_groups
        for name in ("intermediate_size", "heads × head_dim")
    }
    if quantizer == "flatquant" and facts["heads"] % row_groups:
        fitting = math.gcd(facts["heads"], *widths.values())
        raise UserError(
            f"has row_groups {row_groups}, which does not divide the {facts['heads']} heads, which it mixes by group; "
            f"choose {' or '.join(str(n) for n in range(1, fitting + 1) if fitting % n == 0)}"
        )
    if quantizer == "mxfp4":
        for name, size in sizes.items():
            if size % MX_BLOCK:
                raise UserError(
                    f"rounds blocks of {MX_BLOCK}, which do not divide {name}, {size}; choose fewer row_groups or "
                    "leave this cell out"
                )
    if quantizer == "quarot":
        rotated = ["head_dim"]
        if "row_groups" in settings:
            rotated += ["hidden_size", f"intermediate_size / row_groups {row_groups}"]
        for name in rotated:
            if not has_hadamard(sizes[name]):
                raise UserError(
                    f"rotates {name}, {sizes[name]}, for which no Hadamard matrix is known (a power of two times Paley "
                    "I or II over a prime); leave this cell out"
                )
