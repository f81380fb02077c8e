"""MXFP4: round to nearest in the format of the "OCP Microscaling Formats (MX) Specification", version 1.0.

Weights, the inputs of linear layers, and keys and values after RoPE; queries stay in full precision. Ties go to the
even mantissa, as the standard asks (section 5.3.3); the study's code for MXFP4 is not published, and microxcaling's
default rounds them away from zero.
"""

from typing import Any

from scripts.fakequant.mxfp4 import BLOCK, round_mxfp4
from scripts.fakequant.settings import MXFP4, write_settings
from scripts.quantize._rewrite import rewrite
from scripts.quantize._store import stored
from scripts.quantize._written import Grid, finish
from scripts.run.stage import Input, Output, Settings, stage

STEPS = 24  # halves of a unit, of which E2M1 holds some, from -6 to 6


def served_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to round."""
    return {"row_groups": settings["row_groups"], "activations": MXFP4, "keys": MXFP4, "values": MXFP4}


@stage
@stored
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    rewrite(model, checkpoint, lambda _, weight: round_mxfp4(weight))
    write_settings(checkpoint, served_settings(settings))
    finish(model, checkpoint, manifest, Grid(STEPS, BLOCK))


if __name__ == "__main__":
    main()
