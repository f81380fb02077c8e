"""Round to nearest: every weight to the nearest value of an asymmetric min/max grid, without any data.

The floor that other quantizers have to beat: Equation 2 of Nagel et al., "A White Paper on Neural Network
Quantization" (arXiv 2106.08295), per output channel or per group of input channels.
"""

import torch

from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped
from scripts.manifest import write_manifest
from scripts.quantize._rewrite import rewrite_linears
from scripts.quantize._store import stored
from scripts.run.stage import Input, Output, Settings, stage


def quantize_weight(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Fake-quantize `(out_features, in_features)` in groups of input channels (-1: per output channel), in float32."""
    groups = grouped(weight.float(), group_size)
    scale, zero = asymmetric_grid(groups, bits)
    return fake_quantize(groups, scale, zero, bits).reshape(weight.shape)


@stage
@stored
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    rewrite_linears(model, checkpoint, lambda _, w: quantize_weight(w, settings["bits"], settings["group_size"]))
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
