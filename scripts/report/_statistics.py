"""The statistics of all tables, as functions of arrays.

Drops are paired: both cells have answered the same questions with the same seeds. Questions are what is drawn from a
population; the seeds of a question hang together and stay together. Intervals cover 95 % (tests/test_statistics.py
simulates studies and counts).
"""

import zlib

import numpy as np
from scipy.special import bdtr, ndtri

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
LOSSLESS, FAIR = -1, -3  # lower boundaries of the classes, in points


def resamples(weights: np.ndarray, draws: int, name: str) -> np.ndarray:
    """How often each question stands in each of the samples drawn with replacement: `(RESAMPLES, questions)`.

    Args:
        weights: `(questions,)`, in proportion to which a question is drawn.
        draws: questions in a sample.
        name: of the benchmark; seeds the draws, so that all its cells meet the same samples, and two benchmarks
            independent ones.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.multinomial(draws, weights / weights.sum(), size=RESAMPLES)


def drop_replicates(differences: np.ndarray, seeds: int, name: str) -> np.ndarray:
    """Paired bootstrap of drops, `(RESAMPLES, cells)` in points.

    To the questions come two halves of one: in one half one sample has turned right, in the other wrong. It is what
    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005), add to the
    counts of pairs: without it, where nearly all answers are right, a cell without a single flip would have an
    interval without width.

    Args:
        differences: `(questions, cells)`, right answers minus those of the baseline, over all seeds of a question.
    """
    questions, cells = differences.shape
    weights = np.append(np.ones(questions), [0.5, 0.5])
    values = np.concatenate([differences, np.ones((1, cells)), -np.ones((1, cells))])
    counts = resamples(weights, questions, name)
    # Whole numbers below 2**24: sums are exact, in any order.
    return 100 * (counts.astype(np.float32) @ values.astype(np.float32)).astype(np.float64) / (questions * seeds)


def interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of `(RESAMPLES, …)`: its lower and upper ends, rounded to a billionth."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    return low.round(9), high.round(9)


def sign_test(wins: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Exact two-sided p that a question turns right as easily as wrong; with one seed this is McNemar's test.

    With several seeds a question counts as won where more of its samples are right than the baseline's, as lost where
    fewer are; samples of one question are not independent, questions are.
    """
    flips = wins + losses
    return np.minimum(1, 2 * bdtr(np.minimum(wins, losses).astype(float), flips, 0.5))


def holm(p: np.ndarray) -> np.ndarray:
    """p corrected for the number of tests (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p, method="holm")[1] if len(p) else p


def classify(low: float, high: float) -> str:
    """lossless, fair or risky where the whole interval is; undetermined where it crosses a boundary."""
    if low >= LOSSLESS:
        return "lossless"
    if high < FAIR:
        return "risky"
    return "fair" if low >= FAIR and high < LOSSLESS else "undetermined"


def detectable(replicates: np.ndarray) -> np.ndarray:
    """Smallest true drop, in points, that would be told from zero (two-sided, 5 %) in 80 % of such studies."""
    return (ndtri(0.5 + LEVEL / 2) + ndtri(POWER)) * replicates.std(axis=0, ddof=1)
