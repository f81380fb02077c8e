"""A checkpoint with other weights: in its linear layers, shard by shard, or in all of them."""

import functools
from collections.abc import Callable, Set
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import LINEAR_WEIGHT, OF_A_BLOCK, each_matrix
from scripts.quantize._parameters import as_stored
from scripts.quantize._store import part
from scripts.run.files import write_atomically

SHARD_SIZE = "5GB"  # as most models are published: what works shard by shard holds one of them


def rewrite(
    source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor], others: Set[str] = frozenset()
) -> None:
    """A copy of the checkpoint in which `change(name, weight)` replaces each linear weight of the decoder blocks.

    `weight` is `(out_features, in_features)` in the checkpoint's dtype; the result is stored in that dtype. Of experts
    that are stored together each has its turn (`each_matrix`). One shard is in memory at a time; all other files, and
    shards without such weights, are hard links.

    Args:
        source: folder of the checkpoint.
        target: folder of the copy.
        change: gives what replaces a tensor.
        others: what else of the blocks it replaces, by the last two parts of the name (`input_layernorm.weight`).
    """

    def is_changed(name: str) -> bool:
        return LINEAR_WEIGHT.fullmatch(name) or (
            OF_A_BLOCK.fullmatch(name) and ".".join(name.split(".")[-2:]) in others
        )

    link_checkpoint(source, target)
    for shard in sorted(target.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as stored:
            names, metadata = list(stored.keys()), stored.metadata()
            if not any(map(is_changed, names)):
                continue
            tensors = {name: stored.get_tensor(name) for name in names}
        for name in filter(is_changed, names):
            tensor = tensors[name]
            changed = [as_stored(change(*matrix), tensor.dtype) for matrix in each_matrix(name, tensor)]
            tensors[name] = (torch.stack(changed).mT if tensor.dim() == 3 else changed[0]).contiguous()
        write_atomically(shard, lambda path, tensors=tensors, metadata=metadata: save_file(tensors, path, metadata))


def of_layers(what: str) -> Callable[[str], torch.Tensor]:
    """Reads what the parts `layer{index}` (_store.py) hold of a linear weight, by its name: `weight` or `scale`.

    Of one that fuses others the parts may hold these, which follow each other in it. What is no linear weight is read
    as it is.
    """
    whole = functools.cache(part)  # the digest of a layer's file is checked once

    def read(name: str) -> torch.Tensor:
        _, _, index, key = name.split(".", 3)
        with safe_open(whole(f"layer{index}"), framework="pt") as tensors:
            if linear := LINEAR_WEIGHT.fullmatch(name):
                key = f"{linear[2]}.{what}"
            alone = key in tensors.keys()  # noqa: SIM118 - no dictionary
            keys = [key] if alone else [key.replace("gate_up_proj", name) for name in ("gate_proj", "up_proj")]
            return torch.cat([tensors.get_tensor(key) for key in keys])

    return read


def save_model(model: PreTrainedModel, source: Path, target: Path) -> None:
    """A copy of the checkpoint `source` with the weights and the configuration of `model`."""
    link_checkpoint(source, target)
    for path in [*target.glob("*.safetensors*"), target / "config.json", target / "generation_config.json"]:
        path.unlink(missing_ok=True)  # the link, not what it leads to
    model.save_pretrained(target, max_shard_size=SHARD_SIZE)
