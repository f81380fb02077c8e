"""For which orders a Hadamard matrix is constructed: without tensors, for checks of the configuration."""

import math

LARGEST_DENSE = 256  # of the Paley factor; every hidden and intermediate size of the study needs at most 200


def has_hadamard(n: int) -> bool:
    """Is n a small Paley order (constructions I and II over prime fields), or 1, times a power of two?"""
    return paley_order(n) is not None


def paley_order(n: int) -> int | None:
    """The smallest order that, doubled some times, is n: 1, or one of Paley's; None if there is none."""
    odd = n // (n & -n) if n > 0 else 0
    candidates = [odd * 2**k for k in range(n.bit_length()) if odd * 2**k <= min(n, LARGEST_DENSE)]
    return next((m for m in candidates if n % m == 0 and (m == 1 or paley_field(m))), None)


def paley_field(m: int) -> tuple[int, int] | None:
    """Prime of the field and construction (1 or 2) of a Paley matrix of order m."""
    for prime, construction in ((m - 1, 1), (m // 2 - 1, 2)):
        if m % 4 == 0 and prime % 4 == (3 if construction == 1 else 1) and _is_prime(prime):
            return prime, construction
    return None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))
