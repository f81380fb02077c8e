"""Parameters of a layer: put in place by name; and what is said where they, or what they give, are not finite."""

import torch
from torch import nn

from scripts.quantize._store import Tensors
from scripts.run.errors import UserError


def put(layer: nn.Module, tensors: Tensors) -> None:
    """Give the layer these parameters, by name, in its own dtype."""
    parameters = dict(layer.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def as_stored(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the dtype; a level of the grid beyond its ends, by which a largest weight may be rounded, becomes the end."""
    kind = torch.finfo(dtype)
    return weight.clamp(kind.min, kind.max).to(dtype)


def not_finite(what: str) -> UserError:
    return UserError(
        f"{what}: its weights, or those before it, are damaged, or the model's dtype cannot hold its activations "
        "(float16 ends at 65,504): fetch it anew, or take the dtype that it was trained in"
    )
