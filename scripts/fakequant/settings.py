"""What a checkpoint does to activations and to the KV cache, as its `config.json` says it.

    "quantization_config": {
      "quant_method": "fakequant",
      "row_groups": 2,
      "activations": {"bits": 8, "symmetric": false, "clip": 1.0},
      "hadamard": ["down_proj"],
      "keys": {"bits": 4, "clip": 0.95, "hadamard": true},
      "values": {"bits": 4, "clip": 0.95},
      "keys_before_rope": {"bits": 4, "place": "before_bias"},
      "learned": true
    }

All but the first key are optional; `row_groups` is needed by `activations` and `hadamard`. `activations` are the
inputs of the decoder blocks' linear layers, rounded per token; the inputs of row-parallel layers (`o_proj`,
`down_proj`) in `row_groups` groups with a grid of their own, after a Hadamard transform of each group where `hadamard`
names the layer. `keys` and `values` are rounded per token and head after RoPE, in groups of at most 128 channels, keys
(and queries, unrounded) after a Hadamard transform of each head where asked. `keys_before_rope` rounds keys on a
static grid per channel, `before_bias` or `after_bias` of `k_proj`, or `after_norm` in models that have a `k_norm`; the
grid lies in `fakequant/keys.safetensors` of the checkpoint's folder: `{layer}.scale` and `{layer}.zero`, each
`(kv_heads * head_dim,)`. `{"format": "mxfp4"}` in place of the settings of `activations`, `keys` or `values` rounds
them to MXFP4, in blocks of 32 channels that share a power of two; row groups and heads are multiples of that.

`learned` transforms and clips lie in `fakequant/transforms.safetensors`, by layer and by the place of an input
(`qkv_proj`, `o_proj`, `gate_up_proj`, `down_proj`): `{layer}.{place}.left`, `(groups, l, l)`, and `.right`,
`(groups, r, r)`, whose Kronecker product transforms the input, in groups as it is rounded in (for `o_proj` there is
only a left one, across the heads of a group); `{layer}.{place}.clip`, `(groups, 2)`, shares of a grid's lower and
upper end, instead of `clip`. `{layer}.heads.query` and `.key`, `(head_dim, head_dim)`, transform each head of queries
and keys after RoPE; `{layer}.heads.key_clip` and `.value_clip` are `(1, 2)`.
"""

import json
from pathlib import Path
from typing import Any

import torch

from scripts.fakequant.hadamard import hadamard_factors, hadamard_transform
from scripts.fakequant.kronecker import kronecker
from scripts.fakequant.mxfp4 import round_mxfp4
from scripts.fakequant.rounding import round_tokens
from scripts.run.files import write_atomically

METHOD = "fakequant"
KEY_GRIDS = "fakequant/keys.safetensors"
TRANSFORMS = "fakequant/transforms.safetensors"
ROW_PARALLEL = ("o_proj", "down_proj")
PLACES = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
KV_GROUP = 128
MXFP4 = {"format": "mxfp4"}
FACTORS = "hadamard_left", "hadamard_right"
Tensors = dict[str, torch.Tensor]


def read_settings(checkpoint: Path) -> dict[str, Any] | None:
    """What the engine is to round when it serves this checkpoint, None where that is nothing of ours."""
    settings = _quantization(checkpoint)
    return settings if settings.get("quant_method") == METHOD else None


def is_packed(checkpoint: Path) -> bool:
    """Are the checkpoint's weights packed integers, which the engine itself dequantizes?"""
    return _quantization(checkpoint).get("format") == "pack-quantized"


def is_foreign(checkpoint: Path) -> bool:
    """Does the engine itself serve the checkpoint's format, of which nothing is ours?"""
    older = (checkpoint / "hf_quant_config.json").exists()  # ModelOpt's
    return older or _quantization(checkpoint).get("quant_method", METHOD) != METHOD


def _quantization(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "config.json").read_text(encoding="utf-8")).get("quantization_config", {})


def write_settings(checkpoint: Path, settings: dict[str, Any]) -> None:
    """State in the checkpoint's `config.json` what the engine is to round."""
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"quantization_config": {"quant_method": METHOD} | settings}
    write_atomically(
        path,
        lambda temporary: temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"),
    )


def hadamard_at(settings: dict[str, Any], name: str, width: int) -> Tensors:
    """Factors of the Hadamard transform of a linear layer's input, or of `heads`; empty where there is none.

    Args:
        settings: as above.
        name: last part of the layer's name, or `heads`.
        width: channels that are transformed together: a row group's, or a head's.
    """
    heads = name == "heads" and settings.get("keys", {}).get("hadamard")
    asked = heads or name in settings.get("hadamard", ())
    return dict(zip(FACTORS, hadamard_factors(width), strict=True)) if asked else {}


def learned_at(tensors: Tensors, layer: int | str, name: str) -> Tensors:
    """What was learned for the input of a linear layer, or for `heads`, by the last part of its name."""
    prefix = f"{layer}.{PLACES.get(name, name)}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def round_input(
    x: torch.Tensor, layer: str, settings: dict[str, Any], row_groups: int, tensors: Tensors
) -> torch.Tensor:
    """What a linear layer sees instead of its input.

    Args:
        x: `(..., in_features)`, or a tensor-parallel rank's share of it.
        layer: last part of the layer's name.
        settings: as above.
        row_groups: groups that `x` holds: all of them, or the rank's share.
        tensors: transforms and clips of this input, for as many groups: what `hadamard_at` and `learned_at` give.
    """
    width = x.shape[-1] // row_groups if layer in ROW_PARALLEL else x.shape[-1]
    if FACTORS[0] in tensors:
        x = hadamard_transform(x, tuple(tensors[name] for name in FACTORS))
    if "left" in tensors:
        x = kronecker(x, tensors["left"], tensors.get("right"))
    activations = settings.get("activations")
    if activations == MXFP4:
        x = round_mxfp4(x)
    elif activations:
        clip = tensors["clip"] if "clip" in tensors else activations["clip"]
        x = round_tokens(x, activations["bits"], width, symmetric=activations["symmetric"], clip=clip)
    return x


def round_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: dict[str, Any], tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values after RoPE, as attention and the cache see them: each `(..., heads, head_dim)`.

    `tensors` are what `hadamard_at` and `learned_at` give for `heads`.
    """
    keys, values = settings.get("keys"), settings.get("values")
    if "key" in tensors:
        query, key = _by_head(query, tensors["query"]), _by_head(key, tensors["key"])
    if FACTORS[0] in tensors:
        factors = tuple(tensors[name] for name in FACTORS)
        query, key = hadamard_transform(query, factors), hadamard_transform(key, factors)
    clips = tensors.get("key_clip"), tensors.get("value_clip")
    alike = (keys or {}) | {"hadamard": None} == (values or {}) | {"hadamard": None}
    if alike and all(clip is None for clip in clips):
        # One call for both: for a few tokens on a CPU a call costs more than its work.
        both = _round_cache(torch.cat([key, value], -2), values, None)
        return query, *both.split([key.shape[-2], value.shape[-2]], -2)
    return query, _round_cache(key, keys, clips[0]), _round_cache(value, values, clips[1])


def _round_cache(x: torch.Tensor, settings: dict[str, Any] | None, clip: torch.Tensor | None) -> torch.Tensor:
    """Keys or values as the cache holds them, `(..., heads, head_dim)`; `clip` where one was learned."""
    if not settings:
        return x
    if settings == MXFP4:
        return round_mxfp4(x)
    return round_tokens(
        x, settings["bits"], min(KV_GROUP, x.shape[-1]), clip=settings["clip"] if clip is None else clip
    )


def _by_head(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply each head by `(head_dim, head_dim)`; one by one, so that a rank's share is bit for bit that of all."""
    heads = x.transpose(-2, -3)
    return (heads @ matrix.to(x.dtype).expand(heads.shape[-3], -1, -1)).transpose(-2, -3)
