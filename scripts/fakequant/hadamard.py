"""Hadamard matrices by construction, applied as a fast transform.

Paley, "On orthogonal matrices" (1933), constructions I and II over prime fields, doubled by Sylvester: an order is
a small Paley order times a power of two, and the transform is a product of small dense factors.
"""

import functools
import math

import torch

from scripts.fakequant.orders import paley_field, paley_order

RADIX = 64  # of the butterflies that apply the power of two


def hadamard_transform(x: torch.Tensor) -> torch.Tensor:
    """Multiply the last axis by the orthogonal Hadamard matrix of its length, `x @ hadamard_matrix(n)`: same shape.

    Raises:
        ValueError: there is no such matrix for n.
    """
    n = x.shape[-1]
    factors = [_factor(m, x.dtype, x.device) for m in _orders(n)]
    y = x.unflatten(-1, [len(factor) for factor in factors])
    for position, factor in enumerate(factors):
        axis = position - len(factors)
        y = (y.transpose(axis, -1) @ factor).transpose(axis, -1)
    return y.flatten(-len(factors))


def hadamard_by_part(x: torch.Tensor, width: int) -> torch.Tensor:
    """Transform each `width` channels of the last axis: same shape."""
    return hadamard_transform(x.unflatten(-1, (-1, width))).flatten(-2)


def hadamard_matrix(n: int) -> torch.Tensor:
    """The orthogonal matrix `(n, n)` of `hadamard_transform`, in float64."""
    return functools.reduce(torch.kron, (_factor(m, torch.float64, torch.device("cpu")) for m in _orders(n)))


@functools.cache
def _orders(n: int) -> list[int]:
    """Orders of the dense factors whose Kronecker product is the matrix of order n: first Paley's, then Sylvester's."""
    paley = paley_order(n)
    if paley is None:
        raise ValueError(f"no Hadamard matrix of order {n} is known to this code (Sylvester times Paley I or II)")
    powers, rest = [], n // paley
    while rest > 1:
        powers.append(min(rest, RADIX))
        rest //= powers[-1]
    return [order for order in (paley, *powers) if order > 1] or [1]


@functools.cache
def _factor(order: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An orthogonal Hadamard matrix `(order, order)`, dense."""
    if order & (order - 1) == 0:
        matrix = torch.ones(1, 1, dtype=torch.float64)
        for _ in range(order.bit_length() - 1):
            matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    else:
        matrix = _paley(*paley_field(order))
    return (matrix / math.sqrt(order)).to(dtype).to(device)


def _paley(prime: int, construction: int) -> torch.Tensor:
    """Paley's matrix of order `prime + 1` (I, prime = 3 mod 4) or `2 (prime + 1)` (II, prime = 1 mod 4)."""
    squares = {number * number % prime for number in range(1, prime)}
    character = torch.tensor([0.0] + [1.0 if number in squares else -1.0 for number in range(1, prime)])
    index = torch.arange(prime)
    jacobsthal = character[(index[:, None] - index[None, :]) % prime].double()
    bordered = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    bordered[0, 0] = 0
    bordered[1:, 1:] = jacobsthal
    identity = torch.eye(prime + 1, dtype=torch.float64)
    if construction == 1:
        bordered[1:, 0] = -1  # skew: S + I is a Hadamard matrix
        return bordered + identity
    blocks = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(bordered, blocks) + torch.kron(identity, diagonal)
