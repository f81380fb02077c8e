"""A weight in parts of whole rows: what stays in a CPU's cache, or fills a GPU."""

import torch

CHUNK = {"cpu": 2**18, "cuda": 2**25}  # values of a part


def row_chunks(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of `(rows, columns)` that follow each other, each with at least one row."""
    return weight.split(max(1, CHUNK[weight.device.type] // weight.shape[1]))
