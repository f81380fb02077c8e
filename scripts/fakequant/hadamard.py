"""Hadamard matrices by construction, applied as a fast transform.

Paley, "On orthogonal matrices" (1933), constructions I and II over prime fields, doubled by Sylvester: an order is
a small Paley order times a power of two, and the transform is a product of one or two small dense factors. They are
made once, on the default device: what is traced for a GPU must not make tensors or copy them.
"""

import math

import torch

from scripts.fakequant.orders import paley_field, paley_order

SECOND = 128  # what applying a second factor costs, in columns of a dense one: it passes over memory once more

Factors = tuple[torch.Tensor, torch.Tensor]


def hadamard_factors(n: int) -> Factors:
    """Matrices of ±1, `(a, a)` and `(b, b)` with a b = n, in float32, on the default device.

    Their Kronecker product, divided by the square root of n, is the orthogonal Hadamard matrix of order n.

    Raises:
        ValueError: there is no such matrix for n.
    """
    paley = paley_order(n)
    if paley is None:
        raise ValueError(f"no Hadamard matrix of order {n} is known to this code (Sylvester times Paley I or II)")
    powers = [2**k for k in range((n // paley).bit_length())]
    right = min((n, *powers), key=lambda b: b if b == n else n // b + b + SECOND)
    device = torch.get_default_device()
    with torch.device("cpu"):  # many small steps, once
        factors = _signs(n // right), _signs(right)
    return factors[0].to(device), factors[1].to(device)


def hadamard_transform(x: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Multiply each n channels of the last axis by the orthogonal matrix of these factors: same shape and dtype.

    In float32, or float64 where x is, and cast once at the end: sums of what bf16 holds are nearly exact.
    """
    left, right = (factor.to(torch.float64 if x.dtype == torch.float64 else torch.float32) for factor in factors)
    # Each n by itself, as kronecker.py has it: how some libraries sum depends on the number of rows.
    parts = [part @ right for part in x.to(left.dtype).unflatten(-1, (-1, len(left), len(right))).unbind(-3)]
    if len(left) > 1:
        parts = [(part.mT @ left).mT for part in parts]
    return (torch.stack(parts, -3).flatten(-3) / math.sqrt(len(left) * len(right))).to(x.dtype)


def _signs(order: int) -> torch.Tensor:
    """A Hadamard matrix `(order, order)` of ±1, dense, in float32."""
    paley = paley_order(order)
    matrix = torch.ones(1, 1) if paley == 1 else _paley(*paley_field(paley))
    for _ in range((order // paley).bit_length() - 1):
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    return matrix.float()


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
