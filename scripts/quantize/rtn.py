"""Round to nearest: every weight to the nearest value of an asymmetric min/max grid, without any data.

The floor that other quantizers have to beat: Equation 2 of Nagel et al., "A White Paper on Neural Network
Quantization" (arXiv 2106.08295), per output channel or per group of input channels. Activations, keys and values are
rounded on the same grid, per token, when the checkpoint is served.
"""

from typing import Any

import torch

from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped
from scripts.fakequant.settings import ROW_PARALLEL, write_settings
from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import last_part
from scripts.quantize._rewrite import rewrite
from scripts.quantize._store import stored
from scripts.quantize._written import finish, uniform
from scripts.run.stage import Input, Output, Settings, stage


def quantize_weight(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Fake-quantize `(out_features, in_features)` in groups of input channels (-1: per output channel), in float32."""
    groups = grouped(weight.float(), group_size)
    scale, zero = asymmetric_grid(groups, bits)
    return fake_quantize(groups, scale, zero, bits).reshape(weight.shape)


def served_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to round."""
    served = {}
    if "activation_bits" in settings:
        served["row_groups"] = settings["row_groups"]
        served["activations"] = {"bits": settings["activation_bits"], "symmetric": False, "clip": 1.0}
    if "kv_bits" in settings:
        served["keys"] = {"bits": settings["kv_bits"], "clip": 1.0, "hadamard": False}
        served["values"] = {"bits": settings["kv_bits"], "clip": 1.0}
    return served


@stage
@stored
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        group_size = settings["group_size"]
        if group_size == -1 and last_part(name) in ROW_PARALLEL:
            group_size = weight.shape[1] // settings.get("row_groups", 1)
        return quantize_weight(weight, settings["bits"], group_size)

    if "bits" in settings:
        rewrite(model, checkpoint, change)
    else:
        link_checkpoint(model, checkpoint)
    if served := served_settings(settings):
        write_settings(checkpoint, served)
    finish(model, checkpoint, manifest, uniform(settings) if "bits" in settings else None)


if __name__ == "__main__":
    main()
