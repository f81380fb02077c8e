"""A checkpoint with other weights: in its linear layers, shard by shard, or in all of them."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import LINEAR_WEIGHT, each_matrix
from scripts.quantize._parameters import as_stored
from scripts.quantize._store import part
from scripts.run.files import write_atomically

SHARD_SIZE = "5GB"  # as most models are published: what works shard by shard holds one of them


def rewrite_linears(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """A copy of the checkpoint in which `change(name, weight)` replaces each decoder linear weight.

    `weight` is `(out_features, in_features)` in the checkpoint's dtype; the result is stored in that dtype. Of experts
    that are stored together each has its turn (`each_matrix`). One shard is in memory at a time; all other files, and
    shards without such weights, are hard links.
    """
    link_checkpoint(source, target)
    for shard in sorted(target.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as stored:
            names, metadata = list(stored.keys()), stored.metadata()
            if not any(LINEAR_WEIGHT.fullmatch(name) for name in names):
                continue
            tensors = {name: stored.get_tensor(name) for name in names}
        for name, tensor in tensors.items():
            if LINEAR_WEIGHT.fullmatch(name):
                changed = [as_stored(change(*matrix), tensor.dtype) for matrix in each_matrix(name, tensor)]
                tensors[name] = (changed[0] if tensor.dim() == 2 else torch.stack(changed).mT).contiguous()
        write_atomically(shard, lambda path, tensors=tensors, metadata=metadata: save_file(tensors, path, metadata))


def of_layers(what: str) -> Callable[[str], torch.Tensor]:
    """Reads what the parts `layer{index}` (_store.py) hold of a linear weight, by its name: `weight` or `scale`.

    Of one that fuses others the parts may hold these, which follow each other in it.
    """
    whole = functools.cache(part)  # the digest of a layer's file is checked once

    def read(name: str) -> torch.Tensor:
        index, path = LINEAR_WEIGHT.fullmatch(name).groups()
        with safe_open(whole(f"layer{index}"), framework="pt") as tensors:
            alone = f"{path}.{what}" in tensors.keys()  # noqa: SIM118 - no dictionary
            names = [path] if alone else [path.replace("gate_up_proj", name) for name in ("gate_proj", "up_proj")]
            return torch.cat([tensors.get_tensor(f"{name}.{what}") for name in names])

    return read


def save_model(model: PreTrainedModel, source: Path, target: Path) -> None:
    """A copy of the checkpoint `source` with the weights and the configuration of `model`."""
    link_checkpoint(source, target)
    for path in [*target.glob("*.safetensors*"), target / "config.json", target / "generation_config.json"]:
        path.unlink(missing_ok=True)  # the link, not what it leads to
    model.save_pretrained(target, max_shard_size=SHARD_SIZE)
