"""The statistics of all tables, as functions of arrays.

Drops are paired: both cells have answered the same questions with the same seeds. Questions are what is drawn from a
population; the seeds of a question hang together and stay together. Intervals cover 95 % (tests/test_statistics.py
simulates studies and counts).
"""

import functools
import zlib
from collections import Counter

import numpy as np
from scipy.special import bdtr, ndtri

from scripts.score._canonical import canonical

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
FOUND = ndtri(0.5 + LEVEL / 2) + ndtri(POWER)  # standard errors of a drop that is told from zero so often


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


@functools.lru_cache(maxsize=1)  # drops and accuracies of the same cells are drawn one after the other
def _with_one_more(questions: int, name: str) -> np.ndarray:
    """`resamples` of a benchmark's questions and of the two halves that come to them (`drop_replicates`)."""
    return resamples(np.append(np.ones(questions), [0.5, 0.5]), questions, name).astype(float)


def drop_replicates(differences: np.ndarray, asked: np.ndarray, name: str) -> np.ndarray:
    """Paired bootstrap of drops, `(RESAMPLES, cells)` in points.

    To the questions come two halves of one: in one half one sample has turned right, in the other wrong. It is what
    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005), add to the
    counts of pairs: without it, where nearly all answers are right, a cell without a single flip would have an
    interval without width.

    Args:
        differences: `(questions, cells)`, right answers minus those of the baseline, over all seeds of a question.
        asked: `(questions,)`, samples of each question.
        name: as in `resamples`.
    """
    questions, cells = differences.shape
    counts = _with_one_more(questions, name)
    right = np.concatenate([differences, np.ones((1, cells)), -np.ones((1, cells))])
    samples = np.append(asked, [asked.mean()] * 2)
    return 100 * (counts @ right) / (counts @ samples)[:, None]


def ratio_replicates(values: np.ndarray, baseline: np.ndarray, name: str) -> np.ndarray:
    """Paired bootstrap of the ratio of means, `(RESAMPLES, cells)`.

    Args:
        values: `(questions, cells)`, sums over all seeds of a question.
        baseline: the same of each cell's baseline.
        name: as in `resamples`.
    """
    counts = resamples(np.ones(len(values)), len(values), name).astype(float)
    return (counts @ values) / (counts @ baseline)


def accuracy_replicates(
    first: np.ndarray, second: np.ndarray, asked: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies in percent of both cells of pairs, and replicates of them: `(1 + RESAMPLES, pairs)` each.

    Drawn as in `drop_replicates`, of which these are the two sides; the question that is added there has the accuracy
    of the first cell, but for the sample that has turned.

    Args:
        first: `(questions, pairs)`, right answers over all seeds of a question.
        second: the same of the other cells.
        asked: `(questions,)`, samples of each question.
        name: as in `resamples`.
    """
    questions, typical = len(first), first.sum(axis=0, keepdims=True) / asked.sum() * asked.mean()
    counts = _with_one_more(questions, name)
    samples = (counts @ np.append(asked, [asked.mean()] * 2))[:, None]
    sides = []
    for right, turned in ((first, 0), (second, 1)):
        shares = counts @ np.concatenate([right, typical + turned, typical - turned]) / samples
        sides.append(100 * np.vstack([right.sum(axis=0) / asked.sum(), shares]))
    return sides[0], sides[1]


def sampling_error(right: np.ndarray) -> float:
    """Standard error in points of the accuracy over `(questions, seeds)` verdicts, the questions taken as given."""
    questions, seeds = right.shape
    variance = right.var(axis=1, ddof=1) if seeds > 1 else np.full(questions, right.mean() * (1 - right.mean()))
    return float(100 * np.sqrt(variance.sum() / seeds) / questions)


def recovery(accuracies: np.ndarray, baselines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy in percent of the baseline's, `(cells,)`, and the ends of its interval; NaN where that may be 0.

    Args:
        accuracies: `(1 + RESAMPLES, cells)`, as `accuracy_replicates` gives them, or means of such.
        baselines: the same of each cell's baseline.
    """
    ratios = 100 * np.divide(accuracies, baselines, out=np.full_like(accuracies, np.nan), where=baselines > 0)
    ratios[:, np.isnan(ratios).any(axis=0)] = np.nan
    return ratios[0].round(9), *interval(ratios[1:])


def joint_interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals that hold the truth in all cells at once, in 95 % of such studies (max-t bootstrap).

    Each is as wide as its cell is uncertain, times what the largest error of all cells, so measured, exceeds in one
    study of twenty: Romano and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing" (2005),
    their single step.

    Args:
        replicates: `(RESAMPLES, cells)`, of all cells on the same draws of questions.
    """
    center, error = replicates.mean(axis=0), replicates.std(axis=0, ddof=1)
    largest = (np.abs(replicates - center) / np.maximum(error, 1e-9)).max(axis=1)
    width = np.quantile(largest, LEVEL) * error
    return (center - width).round(9), (center + width).round(9)


def p_noninferior(replicates: np.ndarray, margin: float) -> np.ndarray:
    """One-sided p that the drop is worse than the margin: at most 0.025 where the interval clears it, and only there.

    Args:
        replicates: `(RESAMPLES, cells)`.
        margin: the loss that would still be tolerated, in points.
    """
    return (1 + (replicates < -margin).sum(axis=0)) / (1 + len(replicates))


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


def variances(differences: np.ndarray) -> np.ndarray:
    """Squared standard errors of mean differences, `(2, cells)`: what of it the seeds make, and all of it.

    The rest are the questions: more seeds take away the one, more questions both. One seed cannot tell (NaN).

    Args:
        differences: `(questions, seeds, cells)`.
    """
    questions, seeds, cells = differences.shape
    if questions == 1:
        return np.full((2, cells), np.nan)
    of_seeds = differences.var(axis=1, ddof=1).mean(axis=0) / seeds if seeds > 1 else np.full(cells, np.nan)
    return np.stack([of_seeds, differences.mean(axis=1).var(axis=0, ddof=1)]) / questions


def seeds_needed(
    drop: np.ndarray, low: np.ndarray, high: np.ndarray, share: np.ndarray, seeds: np.ndarray, margins: dict[str, float]
) -> np.ndarray:
    """Seeds with which an interval around the drop lies in one class, `(cells,)`; NaN where no number of them would do.

    Those there are where it does already. With n in place of `seeds` each side of the interval is taken to be
    sqrt(1 - share + share * seeds / n) times as long. NaN also where the share is unknown and the class is open.

    Args:
        share: of the variance that the seeds make.
        margins: `lossless` and `risky`, in points.
    """
    ratios = []
    for boundary in (-margins["lossless"], -margins["risky"]):
        above = drop >= boundary
        side = np.where(above, drop - low, high - drop)
        ratios.append(np.divide(np.abs(drop - boundary), side, out=np.full(len(drop), np.inf), where=side > 0))
    longest = np.min(ratios, axis=0)  # times as long as it is, the interval touches a boundary
    room = longest**2 - (1 - share)
    needed = np.ceil(np.divide(share * seeds, room, out=np.full(len(drop), np.nan), where=room > 0))
    return np.where(longest >= 1, seeds, np.maximum(needed, seeds))


def detectable(replicates: np.ndarray) -> np.ndarray:
    """Smallest true drop, in points, that would be told from zero (two-sided, 5 %) in 80 % of such studies."""
    return FOUND * replicates.std(axis=0, ddof=1)


def pass_at_k(samples: int, right: np.ndarray, k: int) -> np.ndarray:
    """Probability that one of k samples, drawn without replacement from those of a question, is right.

    The unbiased estimate of Chen et al., "Evaluating Large Language Models Trained on Code" (2021), Equation 1.

    Args:
        samples: samples of each question, at least k.
        right: `(questions,)`, how many of them are right.
    """
    return 1 - np.prod([(samples - right - i) / (samples - i) for i in range(k)], axis=0).clip(min=0)


def majority(answers: list[str | None], right: list[bool]) -> float:
    """Probability that the most frequent answer to a question is right; answers as frequent as each other draw lots.

    Outputs without an answer (None) do not vote. Equal answers vote together, however they are written: all that are
    right are equal to each other, of the others those with the same number or text.
    """
    keys = [
        None if answer is None else "right" if good else f"wrong: {canonical(answer)}"
        for answer, good in zip(answers, right, strict=True)
    ]
    votes = Counter(key for key in keys if key is not None)
    most = max(votes.values(), default=0)
    winners = [key for key, count in votes.items() if count == most]
    return float("right" in winners) / len(winners) if winners else 0.0
