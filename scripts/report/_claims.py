"""The claims of "Quantization Hurts Reasoning?" (arXiv 2504.04823), and one of arXiv 2510.10964: what each is about.

A claim is a statement about units: cells, or pairs of cells. Its number is the median over them, which must lie on one
side of a boundary; so one cell that fails does not speak for all. Where units differ by far more than they are
uncertain, and skewed, noise shifts a median: two claims take the mean (intervals of the median of the paper's pairs of
sizes held the truth in 53 % of simulations).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scripts.report._classes import MARGINS
from scripts.report._statistics import RESAMPLES

LOSSLESS, FAIR = -MARGINS["lossless"], -MARGINS["risky"]  # whatever margins a study has
LARGER = 1.5  # times as many parameters, from which on a model counts as larger
EQUAL = 1.1  # times as much memory, up to which it counts as the same
LONGER = 5  # percent, up to which an output counts as not longer
Cell = tuple[str, str, str]
Units = tuple[list[str], np.ndarray]  # names, and `(1 + RESAMPLES, units)`: the estimate, then replicates of it
Rule = Callable[[float, float], str]
NOTHING: Units = ([], np.empty((1 + RESAMPLES, 0)))


@dataclass(frozen=True)
class Evidence:
    """What claims are judged on; the first entry of each array's first axis is the estimate, the rest replicates."""

    cells: list[Cell]  # without baselines
    drops: np.ndarray  # (1 + RESAMPLES, cells, benchmarks), in points
    baselines: dict[str, np.ndarray]  # model → accuracy of none/full by benchmark, in percent
    lengths: np.ndarray | None  # (1 + RESAMPLES, cells): mean over benchmarks of the ratio to the baseline's length
    models: dict[str, dict]  # model → facts of config/models/
    schemes: dict[str, dict]  # "quantizer/scheme" → settings
    own_reasoning: list[str]  # corpora that a model wrote itself
    steps: Units = NOTHING  # cells: accuracy of the longest thoughts of a ladder of suites minus of the shortest
    equal_memory: Units = NOTHING  # pairs: accuracy of the larger model minus of the smaller

    def where(self, numbers: str, quantizers: str = "(?!rtn|vllm|published).*") -> list[int]:
        """Positions of cells whose scheme names such bits, by methods such as the paper's: it has no plain rounding."""
        return [
            i
            for i, (_, quantizer, scheme) in enumerate(self.cells)
            if re.fullmatch(quantizers, quantizer) and re.fullmatch(rf"({numbers})(g\d+)?(-.*)?", scheme)
        ]

    def average(self, positions: list[int]) -> np.ndarray:
        return self.drops[:, positions].mean(axis=2)

    def pairs(self, fits: Callable[[Cell, Cell], bool]) -> tuple[list[int], list[int]]:
        found = [(i, j) for i, a in enumerate(self.cells) for j, b in enumerate(self.cells) if fits(a, b)]
        return [i for i, _ in found], [j for _, j in found]


def name(cell: Cell) -> str:
    return "{} {}/{}".format(*cell)


def stem(scheme: str) -> str:
    """A scheme without what the paper chose by model: row groups, where keys are rounded, FlatQuant's sequences."""
    return re.sub(r"-(r\d+|after-bias|4k)(?=-|$)", "", scheme)


# Where the whole interval must lie.


def at_least(boundary: float) -> Rule:
    return lambda low, high: "supported" if low >= boundary else "contradicted" if high < boundary else "undetermined"


def at_most(boundary: float) -> Rule:
    return lambda low, high: at_least(-boundary)(-high, -low)


def above(boundary: float) -> Rule:
    return lambda low, high: "supported" if low > boundary else "contradicted" if high <= boundary else "undetermined"


def below(boundary: float) -> Rule:
    return lambda low, high: above(-boundary)(-high, -low)


def within(size: float) -> Rule:
    def rule(low: float, high: float) -> str:
        if -size <= low and high <= size:
            return "supported"
        return "contradicted" if low > size or high < -size else "undetermined"

    return rule


def beyond(size: float) -> Rule:
    opposite = {"supported": "contradicted", "contradicted": "supported", "undetermined": "undetermined"}
    return lambda low, high: opposite[within(size)(low, high)]


# Units of the claims.


def cells_with(numbers: str) -> Callable[[Evidence], Units]:
    def units(evidence: Evidence) -> Units:
        positions = evidence.where(numbers)
        return [name(evidence.cells[i]) for i in positions], evidence.average(positions)

    return units


def differences(fits: Callable[[Evidence, Cell, Cell], bool]) -> Callable[[Evidence], Units]:
    """Drop of the first minus that of the second, of all ordered pairs of cells that fit."""

    def units(evidence: Evidence) -> Units:
        first, second = evidence.pairs(lambda a, b: fits(evidence, a, b))
        names = [f"{name(evidence.cells[i])} − {name(evidence.cells[j])}" for i, j in zip(first, second, strict=True)]
        return names, evidence.average(first) - evidence.average(second)

    return units


def larger(evidence: Evidence, a: Cell, b: Cell) -> bool:
    sizes = [evidence.models[cell[0]]["parameters"] for cell in (a, b)]
    return (a[1], stem(a[2])) == (b[1], stem(b[2])) and sizes[0] >= LARGER * sizes[1]


def distilled(evidence: Evidence, a: Cell, b: Cell) -> bool:
    facts = [evidence.models[cell[0]] for cell in (a, b)]
    alike = (a[1], stem(a[2])) == (b[1], stem(b[2])) and 0.9 < facts[0]["parameters"] / facts[1]["parameters"] < 1.1
    return alike and [fact["origin"] for fact in facts] == ["distilled", "reinforced"]


def awq_and_gptq(numbers: str) -> Callable[[Evidence, Cell, Cell], bool]:
    def fits(_: Evidence, a: Cell, b: Cell) -> bool:
        alike = a[0] == b[0] and a[2] == b[2] and re.fullmatch(rf"{numbers}(g\d+)?", a[2])
        return bool(alike) and (a[1], b[1]) == ("awq", "gptq")

    return fits


def own_reasoning(quantizers: str) -> Callable[[Evidence, Cell, Cell], bool]:
    def fits(evidence: Evidence, a: Cell, b: Cell) -> bool:
        settings = [evidence.schemes.get(f"{cell[1]}/{cell[2]}", {}) for cell in (a, b)]
        corpora = [setting.get("corpus") for setting in settings]
        rest = [{key: value for key, value in setting.items() if key != "corpus"} for setting in settings]
        alike = a[:2] == b[:2] and rest[0] == rest[1] and re.fullmatch(quantizers, a[1]) and all(corpora)
        return bool(alike) and [corpus in evidence.own_reasoning for corpus in corpora] == [True, False]

    return fits


def harder(evidence: Evidence) -> Units:
    """What a cell loses on the model's hardest benchmark minus on its easiest, each as a share of the baseline."""
    names, losses = [], []
    for i, cell in enumerate(evidence.cells):
        baseline = evidence.baselines[cell[0]]
        if len(baseline) > 1 and baseline.min() > 0:
            shares = 100 * evidence.drops[:, i] / baseline
            names.append(name(cell))
            losses.append(shares[:, baseline.argmin()] - shares[:, baseline.argmax()])
    return names, np.stack(losses, axis=1) if losses else np.empty((1 + RESAMPLES, 0))


def longer(evidence: Evidence) -> Units:
    if evidence.lengths is None:
        return NOTHING
    return [name(cell) for cell in evidence.cells], 100 * (evidence.lengths - 1)


def flatquant(evidence: Evidence) -> Units:
    """FlatQuant's drop minus that of the best other method, of each model that has both."""
    names, best = [], []
    everyone = evidence.where("w4a4kv4", ".*")
    for i in evidence.where("w4a4kv4", "flatquant"):
        others = [j for j in everyone if evidence.cells[j][0] == evidence.cells[i][0] and j != i]
        others = [j for j in others if evidence.cells[j][1] != "flatquant"]
        if others:
            names.append(name(evidence.cells[i]))
            best.append(evidence.average([i])[:, 0] - evidence.average(others).max(axis=1))
    return names, np.stack(best, axis=1) if best else np.empty((1 + RESAMPLES, 0))


def large_biases(evidence: Evidence) -> Units:
    """Drops where keys have large biases, minus the median of those where they have not."""
    positions = evidence.where("kv[34]", "quarot")
    large = [i for i in positions if evidence.models[evidence.cells[i][0]]["key_bias"] == "large"]
    others = [i for i in positions if i not in large]
    if not large or not others:
        return NOTHING
    rest = np.median(evidence.average(others), axis=1, keepdims=True)
    return [name(evidence.cells[i]) for i in large], evidence.average(large) - rest


@dataclass(frozen=True)
class Claim:
    name: str
    statement: str
    test: str
    units: Callable[[Evidence], Units]
    rule: Rule
    over: Callable[..., np.ndarray] = np.median


LOST = "drop of avg against none/full, median over cells, in points"
PAIRED = "drop of avg of the one minus that of the other, median over pairs, in points"
CORPORA = (
    "avg calibrated on own reasoning minus avg calibrated on other text, all else equal, median over pairs, in points"
)
CLAIMS = [
    Claim(
        "w8a8kv8-lossless", "Eight bits for weights, activations and cache are lossless.",
        f"{LOST}; not below {LOSSLESS}", cells_with("w8a8kv8"), at_least(LOSSLESS),
    ),
    Claim(
        "w4-near-lossless", "Four bits for weights alone are nearly lossless.",
        f"{LOST}; not below {FAIR}", cells_with("w4"), at_least(FAIR),
    ),
    Claim(
        "kv4-near-lossless", "Four bits for the cache alone are nearly lossless.",
        f"{LOST}; not below {FAIR}", cells_with("kv4"), at_least(FAIR),
    ),
    Claim("w3-risky", "Three bits for weights are risky.", f"{LOST}; below {FAIR}", cells_with("w3"), below(FAIR)),
    Claim("kv3-risky", "Three bits for the cache are risky.", f"{LOST}; below {FAIR}", cells_with("kv3"), below(FAIR)),
    Claim(
        "w4a4kv4-risky", "Four bits for weights, activations and cache are risky.",
        f"{LOST}; below {FAIR}", cells_with("w4a4kv4"), below(FAIR),
    ),
    Claim(
        "larger-lose-less", "Larger models lose less.",
        f"drop of avg on a model at least {LARGER} times as large minus that of the same method on the smaller, mean "
        "over pairs, in points; above 0",
        differences(larger), above(0), np.mean,
    ),
    Claim(
        "harder-lose-more", "Harder tasks lose more.",
        "share of the baseline's accuracy lost on its hardest benchmark minus on its easiest (as drops: a loss is "
        "negative), mean over cells, in percent; below 0",
        harder, below(0), np.mean,
    ),
    Claim(
        "distilled-lose-less", "Distilled models lose less than those trained by reinforcement.",
        f"{PAIRED}: the same method on a distilled model minus on a reinforced one of its size; above 0",
        differences(distilled), above(0),
    ),
    Claim(
        "not-longer", "Quantized models do not give longer outputs.",
        f"mean length over that of none/full, averaged over benchmarks, median over cells, as growth in percent; not "
        f"above {LONGER}",
        longer, at_most(LONGER),
    ),
    Claim(
        "domain-matters-for-gptq", "The domain of calibration matters for GPTQ.",
        f"{CORPORA}; beyond ±{-LOSSLESS}", differences(own_reasoning("gptq")), beyond(-LOSSLESS),
    ),
    Claim(
        "domain-matters-for-gptq-only", "The domain of calibration does not matter for other methods.",
        f"{CORPORA}; within ±{-LOSSLESS}", differences(own_reasoning("(?!gptq).*")), within(-LOSSLESS),
    ),
    Claim(
        "awq-before-gptq-4", "AWQ loses less than GPTQ at four bits.",
        f"{PAIRED}: AWQ minus GPTQ; above 0", differences(awq_and_gptq("w4")), above(0),
    ),
    Claim(
        "awq-before-gptq-3", "AWQ loses less than GPTQ at three bits.",
        f"{PAIRED}: AWQ minus GPTQ; above 0", differences(awq_and_gptq("w3")), above(0),
    ),
    Claim(
        "flatquant-best", "FlatQuant is best at four bits for weights, activations and cache.",
        "drop of avg of FlatQuant minus that of the best other method, median over models, in points; above 0",
        flatquant, above(0),
    ),
    Claim(
        "quarot-kv-fails-on-biases", "QuaRot for the cache fails where keys have large biases.",
        f"drop of avg of QuaRot's KV4 and KV3 there minus its median elsewhere, median, in points; below {FAIR}",
        large_biases, below(FAIR),
    ),
    Claim(
        "more-steps-help", "More reasoning steps help quantized models.",
        "avg of the suite whose thoughts are longest minus that of the one whose are shortest, else the same, of each "
        "quantized cell, median over cells, in points; above 0",
        lambda evidence: evidence.steps, above(0),
    ),
    Claim(
        "larger-at-equal-memory", "At equal memory a larger model of fewer bits beats a smaller one of more.",
        f"avg of a model at least {LARGER} times as large minus that of a smaller one, where weights and the cache of "
        f"a mean answer take as much memory, within a factor of {EQUAL}, median over pairs, in points; above 0",
        lambda evidence: evidence.equal_memory, above(0),
    ),
]  # fmt: skip
