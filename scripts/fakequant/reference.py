"""What vLLM serves through the plugin, as a transformers model in memory: for calibration, and to test against."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scripts.fakequant.rounding import fake_quantize
from scripts.fakequant.settings import (
    KEY_GRIDS,
    METHOD,
    TRANSFORMS,
    Tensors,
    hadamard_at,
    learned_at,
    round_heads,
    round_input,
)

KEYS_AT = {"before_bias": "k_proj", "after_bias": "k_proj", "after_norm": "k_norm"}


def load_reference(checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint with all that its `config.json` asks the engine to round."""
    config = AutoConfig.from_pretrained(checkpoint)
    settings = getattr(config, "quantization_config", None)
    if settings is not None:
        del config.quantization_config
    model = AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=dtype)
    if settings is not None:
        tensors = load_file(checkpoint / KEY_GRIDS) if "keys_before_rope" in settings else {}
        tensors |= load_file(checkpoint / TRANSFORMS) if "learned" in settings else {}
        attach(model, settings, tensors)
    return model.eval()


def attach(model: PreTrainedModel, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Make the model round as `settings` say, and the tensors that they ask for (see scripts/fakequant/settings.py)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            linear, layer = name.rsplit(".", 1)[-1], re.search(r"layers\.(\d+)\.", name)[1]
            used = hadamard_at(settings, linear, module.in_features // settings.get("row_groups", 1))
            used |= learned_at(tensors, layer, linear)
            module.register_forward_pre_hook(_input_rounding(linear, settings, used))
        if (keys := settings.get("keys_before_rope")) and name.endswith(KEYS_AT[keys["place"]]):
            layer = re.search(r"layers\.(\d+)\.", name)[1]
            grid = tensors[f"{layer}.scale"], tensors[f"{layer}.zero"]
            module.register_forward_hook(_key_rounding(grid, **keys))

    config = model.config
    factors = hadamard_at(
        settings, "heads", getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    heads = [factors | learned_at(tensors, index, "heads") for index in range(config.num_hidden_layers)]

    def attention(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments: Any, **named: Any
    ) -> tuple[torch.Tensor, None]:
        rounded = round_heads(*(x.transpose(1, 2) for x in (query, key, value)), settings, heads[module.layer_idx])
        return sdpa_attention_forward(module, *(x.transpose(1, 2) for x in rounded), *arguments, **named)

    ALL_ATTENTION_FUNCTIONS.register(METHOD, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(METHOD, sdpa_mask)  # else there is no mask, and no window
    model.config._attn_implementation = METHOD


def _input_rounding(layer: str, settings: dict[str, Any], tensors: Tensors) -> Any:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = inputs[0]  # while a quantizer calibrates, a layer may be on a GPU, and no longer where it was made
        used = {name: tensor.to(x.device) for name, tensor in tensors.items()}
        return (round_input(x, layer, settings, settings.get("row_groups", 1), used),)

    return hook


def _key_rounding(grid: tuple[torch.Tensor, torch.Tensor], bits: int, place: str) -> Any:
    def hook(module: nn.Module, _: tuple[torch.Tensor], key: torch.Tensor) -> torch.Tensor:
        bias = module.bias if place == "before_bias" and module.bias is not None else 0
        scale, zero = (part.reshape(-1, key.shape[-1]).squeeze(0) for part in grid)  # by head where the keys are
        return fake_quantize((key - bias).float(), scale, zero, bits).to(key.dtype) + bias

    return hook
