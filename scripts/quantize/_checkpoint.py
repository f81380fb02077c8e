"""Checkpoints as folders: hard-link what does not change, rewrite the weights that do."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.run.files import write_atomically

# Only the decoder blocks' linear layers are quantized: not embeddings, norms, lm_head or biases.
LINEAR_WEIGHT = re.compile(r"model\.layers\.\d+\.(?:self_attn|mlp)\.[a-z]+_proj\.weight")


def link_checkpoint(source: Path, target: Path) -> None:
    """Fill `target` with hard links to the files of `source` (copies across file systems), replacing what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def rewrite_linears(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """A copy of the checkpoint in which `change(name, weight)` replaces each decoder linear weight.

    `weight` is `(out_features, in_features)` in the checkpoint's dtype; the result is stored in that dtype. One
    shard is in memory at a time; all other files, and shards without such weights, are hard links.
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
                tensors[name] = change(name, tensor).to(tensor.dtype).contiguous()
        write_atomically(shard, lambda path, tensors=tensors, metadata=metadata: save_file(tensors, path, metadata))
