"""The statistics of the tables: right against other implementations, and against studies whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from scripts.report import _statistics
from scripts.report._classes import MARGINS, classify
from scripts.report._statistics import (
    FOUND,
    accuracy_replicates,
    detectable,
    drop_replicates,
    holm,
    interval,
    joint_interval,
    majority,
    p_noninferior,
    pass_at_k,
    ratio_replicates,
    recovery,
    resamples,
    seeds_needed,
    sign_test,
    variances,
)
from scripts.report.difficulty import bins

STUDIES = 1000


def chances(
    spread: tuple[float, float], shift: float, size: tuple[int, int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Chances of a right answer, of the baseline and of a quantized model, to questions drawn from a population.

    Questions are as hard as a Beta distribution says; quantization shifts log-odds by `shift` and, of each question, up
    or down by 0.7 or so.
    """
    before = rng.beta(*spread, size).clip(1e-9, 1 - 1e-9)
    odds = np.log(before / (1 - before)) + shift + 0.7 * rng.standard_normal(size)
    return [before, 1 / (1 + np.exp(-odds))]


# questions, seeds, difficulty, shift
POPULATIONS = {
    "hard questions": (120, 3, (0.4, 0.6), -0.3),
    "no effect": (120, 3, (0.4, 0.6), 0.0),
    "many questions": (500, 3, (2, 0.3), -0.3),
    "nearly all right": (200, 3, (20, 0.05), -0.5),
    "nearly all wrong": (200, 3, (0.3, 3), -0.5),
    "few questions": (40, 3, (1, 1), -0.5),
    "one seed": (120, 1, (0.4, 0.6), -0.3),
    "a large effect": (200, 3, (2, 1), -2.0),
}


@pytest.fixture(scope="module")
def simulated() -> dict[str, tuple[np.ndarray, float]]:
    """Replicates of the drop in 1,000 studies of each population, and its true drop, in points."""
    rng = np.random.default_rng(0)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_statistics, "RESAMPLES", 2000)  # of each of 8,000 studies; the ends move by hundredths
        for name, (questions, seeds, spread, shift) in POPULATIONS.items():
            before, after = chances(spread, shift, (2_000_000, 1), rng)
            truth = 100 * float((after - before).mean())
            before, after = (rng.binomial(seeds, p) for p in chances(spread, shift, (questions, STUDIES), rng))
            found[name] = drop_replicates(after - before, np.full(questions, seeds), name), truth
    return found


@pytest.mark.parametrize("population", POPULATIONS)
def test_intervals_of_a_benchmark_cover_the_truth(simulated: dict[str, tuple[np.ndarray, float]], population: str):
    replicates, truth = simulated[population]
    low, high = interval(replicates)
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


@pytest.mark.parametrize(
    "benchmarks",
    [
        ["hard questions", "many questions", "few questions", "nearly all right", "one seed"],
        ["nearly all right", "nearly all wrong", "no effect"],
        list(POPULATIONS),
    ],
)
def test_intervals_of_the_average_cover_the_truth(
    simulated: dict[str, tuple[np.ndarray, float]], benchmarks: list[str]
):
    low, high = interval(np.mean([simulated[name][0] for name in benchmarks], axis=0))
    truth = np.mean([simulated[name][1] for name in benchmarks])
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def test_replicates_are_those_of_a_loop_over_questions():
    """Drawing whole rows, a thousand times, gives the same distribution; seeds of a question stay together."""
    rng = np.random.default_rng(1)
    base, cell = rng.random((300, 3)) < 0.7, rng.random((300, 3)) < 0.6
    loop = []
    for _ in range(2000):
        drawn = rng.integers(0, 300, 300)
        loop.append(100 * (cell[drawn].mean() - base[drawn].mean()))
    replicates = drop_replicates((cell.sum(1) - base.sum(1))[:, None], np.full(300, 3), "x")[:, 0]
    assert replicates.mean() == pytest.approx(np.mean(loop), abs=0.2)
    assert replicates.std() == pytest.approx(np.std(loop), rel=0.06)


def test_an_interval_without_a_flip_has_width():
    low, high = interval(drop_replicates(np.zeros((200, 1), int), np.full(200, 3), "x"))
    assert -1 < low[0] < 0 < high[0] < 1


def test_draws_depend_on_the_benchmark_alone():
    weights = np.ones(50)
    assert (resamples(weights, 50, "a") == resamples(weights, 50, "a")).all()
    a, b = resamples(weights, 50, "a"), resamples(weights, 50, "b")
    assert (a.sum(axis=1) == 50).all()
    assert abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1]) < 0.05


def test_ratio_of_means():
    lengths = np.array([[100.0], [200.0], [300.0]] * 40)
    assert ratio_replicates(2 * lengths, lengths, "x") == pytest.approx(2)
    rng = np.random.default_rng(2)
    base = rng.lognormal(6, 0.8, (150, STUDIES))
    low, high = interval(ratio_replicates(base * rng.lognormal(np.log(1.1), 0.3, base.shape), base, "x"))
    truth = 1.1 * np.exp(0.3**2 / 2)
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


def test_recovery():
    """Of 1,000 studies; by hand where a baseline has none right."""
    rng = np.random.default_rng(3)
    chance = rng.beta(2, 1, (200, 1))
    base, cell = (rng.binomial(3, factor * chance, (200, STUDIES)) for factor in (0.9, 0.8))
    asked = np.full(200, 3)
    theirs, ours = accuracy_replicates(base, cell, asked, "x")
    np.testing.assert_allclose(ours[1:] - theirs[1:], drop_replicates(cell - base, asked, "x"), rtol=1e-6, atol=1e-9)
    assert ours[0] == pytest.approx(100 * cell.sum(axis=0) / 600)
    shares, low, high = recovery(ours, theirs)
    assert shares == pytest.approx(100 * cell.sum(axis=0) / base.sum(axis=0))
    truth = 100 * 0.8 / 0.9
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97
    assert np.isnan(recovery(ours, 0 * theirs)).all()
    right = np.full((200, 1), 3)
    _, low, high = recovery(*accuracy_replicates(right, right, asked, "x"))
    assert 99 < low[0] < 100 < high[0] < 101  # it has width without a flip, as the drop has


def errors_of_studies(count: int, cells: int, draws: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Errors of estimates that hang together and differ in size, `(cells,)`, and replicates: `(draws, cells)`."""
    rng = np.random.default_rng(4)
    size, shared = np.linspace(0.3, 3, cells), 0.6  # all cells share a baseline

    def draw(number: int) -> np.ndarray:
        noise = shared**0.5 * rng.normal(size=(number, 1)) + (1 - shared) ** 0.5 * rng.normal(size=(number, cells))
        return noise * size

    return [(error := draw(1)[0], error + draw(draws)) for _ in range(count)]


def test_joint_intervals_hold_the_truth_in_all_cells_at_once():
    alone, together = [], []
    for _, replicates in errors_of_studies(STUDIES, 12, 1000):  # the truth is 0
        for found, (low, high) in ((alone, interval(replicates)), (together, joint_interval(replicates))):
            found.append(((low <= 0) & (high >= 0)).all())
    assert 0.93 <= np.mean(together) <= 0.97
    assert np.mean(alone) < 0.8


def test_noninferior_at_the_margin_is_said_in_one_study_of_forty():
    p = [p_noninferior(replicates - 1, 1)[0] for _, replicates in errors_of_studies(2 * STUDIES, 2, 500)]
    assert 0.017 <= np.mean(np.array(p) <= 0.025) <= 0.035
    replicates = errors_of_studies(1, 40, 10_000)[0][1] + np.linspace(-9, 9, 40)
    cleared = interval(replicates)[0] >= -1
    assert 0 < cleared.sum() < 40
    assert ((p_noninferior(replicates, 1) <= 0.025) == cleared).all()


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (3, 3), (2, 9), (40, 21), (0, 30)])
def test_sign_test_is_exact(wins: int, losses: int):
    p = sign_test(np.array([wins]), np.array([losses]))[0]
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert p == pytest.approx(expected)
    assert p == pytest.approx(mcnemar([[5, wins], [losses, 5]], exact=True).pvalue if wins + losses else 1)


def test_holm_multiplies_the_smallest_by_all():
    assert holm(np.array([0.01, 0.5, 0.02, 0.04])) == pytest.approx([0.04, 0.5, 0.06, 0.08])
    assert holm(np.array([])).size == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1, 0.5, "lossless"), (0.1, 2, "lossless"), (-1.01, 0.5, "undetermined"), (-3, -1.01, "fair"),
        (-2, -1, "undetermined"), (-3.01, -2, "undetermined"), (-9, -3.01, "risky"), (-9, -3, "undetermined"),
        (-9, 0, "undetermined"),
    ],
)  # fmt: skip
def test_classes_need_the_whole_interval(low: float, high: float, expected: str):
    assert classify(low, high, MARGINS) == expected
    assert classify(2 * low, 2 * high, {"lossless": 2, "risky": 6}) == expected


def test_what_of_the_variance_seeds_make():
    """Against the truth of questions whose chances are known, by the mean over studies."""
    rng = np.random.default_rng(5)
    questions, seeds = 300, 3
    before, after = chances((0.6, 0.5), -0.3, (questions,), rng)
    of_seeds = (before * (1 - before) + after * (1 - after)).mean() / seeds / questions
    together = of_seeds + (after - before).var(ddof=1) / questions
    shape = (questions, seeds, STUDIES)
    right = [rng.random(shape) < chance[:, None, None] for chance in (before, after)]
    found = variances(right[1].astype(int) - right[0])
    assert found.shape == (2, STUDIES)
    assert found.mean(axis=1) == pytest.approx([of_seeds, together], rel=0.02)
    assert np.isnan(variances(right[0][:, :1].astype(int))[0]).all()
    assert np.isnan(variances(right[0][:1].astype(int))).all()


@pytest.mark.parametrize(
    ("low", "drop", "high", "share", "expected"),
    [
        (-1.0, 0.0, 1.0, 0.4, 3), (-4, -2, 0, 1, 12), (-4, -2, 0, 0.5, None), (-4, -2, 0, 0.8, 48),
        (-3, -1, 1, 1, None), (-9, -6, -2.9, 1, 4), (-9, -6, -3.1, 0.1, 3), (-2, 0, 2, None, None),
        (-9, -6, -4, None, 3), (0, 0, 0, 1, 3),
    ],
)  # fmt: skip
def test_seeds_needed_by_hand(low: float, drop: float, high: float, share: float | None, expected: int | None):
    """Of three seeds: sides of the interval shrink until none crosses a margin."""
    given = (np.array([np.nan if value is None else float(value)]) for value in (drop, low, high, share, 3))
    found = seeds_needed(*given, MARGINS)[0]
    assert found == expected if expected is not None else np.isnan(found)


def test_a_drop_is_foreseen_as_it_is_seen_afterwards():
    """From the variance of accuracies over seeds: where quantization changes nothing, that is all there is."""
    rng = np.random.default_rng(9)
    questions, seeds = 300, 3
    chance = rng.beta(0.6, 0.5, questions)
    of_one_seed = 1e4 * (chance * (1 - chance)).mean() / questions
    foreseen = FOUND * np.sqrt(2 * of_one_seed / seeds)
    before, after = (rng.binomial(seeds, chance[:, None], (questions, 100)) for _ in range(2))
    found = detectable(drop_replicates(after - before, np.full(questions, seeds), "x"))
    assert found.mean() == pytest.approx(foreseen, rel=0.05)


def test_so_many_seeds_as_are_said_to_be_needed_give_so_long_an_interval():
    rng = np.random.default_rng(6)
    questions, seeds, many = 200, 2, 12
    before, after = chances((0.6, 0.5), -0.2, (questions,), rng)

    def asked(count: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (questions, count, 40)
        right = [rng.random(shape) < chance[:, None, None] for chance in (before, after)]
        differences = right[1].astype(int) - right[0]
        replicates = drop_replicates(differences.sum(axis=1), np.full(questions, count), "x")
        low, high = interval(replicates)
        of_seeds, together = variances(differences)
        return high - low, of_seeds / together

    width, share = asked(seeds)
    said = width * np.sqrt(1 - share + share * seeds / many)
    # A little longer, for the question that comes to them (`drop_replicates`) shrinks faster.
    assert 0.99 < said.mean() / asked(many)[0].mean() < 1.08


def test_a_detectable_drop_is_found_in_four_of_five_studies():
    rng = np.random.default_rng(3)
    questions, rate = 400, 0.1
    drop = detectable(drop_replicates(sampled(rng, questions, rate, 0)[:, :50], np.ones(questions), "x")).mean() / 100
    studies = sampled(rng, questions, rate, drop)
    error = studies.std(axis=0, ddof=1) / questions**0.5
    found = (np.abs(studies.mean(axis=0)) > 1.96 * error).mean()
    assert 0.75 <= found <= 0.85


def sampled(rng: np.random.Generator, questions: int, rate: float, drop: float) -> np.ndarray:
    """`(questions, 2000)` of single answers, of which a share flips either way, and more are lost by `drop`."""
    return rng.choice([-1, 0, 1], (questions, 2000), p=[(rate + drop) / 2, 1 - rate, (rate - drop) / 2])


@pytest.mark.parametrize(("samples", "k"), [(1, 1), (3, 1), (3, 2), (3, 3), (5, 2)])
def test_pass_at_k_counts_all_choices(samples: int, k: int):
    right = np.arange(samples + 1)
    expected = [
        np.mean([any(chosen) for chosen in itertools.combinations([i < count for i in range(samples)], k)])
        for count in right
    ]
    assert pass_at_k(samples, right, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["1", "1", "2"], [True, True, False], 1),
        (["1", "2", "2"], [True, False, False], 0),
        (["1", "2", "3"], [True, False, False], 1 / 3),
        ([None, None, "1"], [False, False, True], 1),
        ([None, None, None], [False, False, False], 0),
        (["36", "36.0", "n=36", "35", "35"], [True, True, True, False, False], 1),
        (["2,000", "2000", "\\$2000", "1500", "1500"], [True, True, True, False, False], 1),
        (["36", "36", "35", "35.0", "n = 35"], [True, True, False, False, False], 0),
        (["36", "36", "1,500", "1500", "\\$1500.00"], [True, True, False, False, False], 0),
        (["36", "1/2", "0.5"], [True, False, False], 0),
        (["36", "x+1", "x + 1"], [True, False, False], 0),
        (["36", "35", "34"], [True, False, False], 1 / 3),
    ],
)
def test_majority(answers: list[str | None], right: list[bool], expected: float):
    assert majority(answers, right) == pytest.approx(expected)


def test_bins_by_solve_rate_do_not_regress_to_the_mean():
    """Two runs of one model lose nothing in any bin; binned by the very answers that are compared, they would."""
    rng = np.random.default_rng(4)
    chance = rng.beta(0.5, 0.5, (20_000, 1))
    first, second = (rng.random((20_000, 3)) < chance for _ in range(2))
    found = {name: mask for by, name, mask in bins(first, np.full(20_000, None)) if by == "solve_rate"}
    assert list(found) == ["0/2", "1/2", "2/2"]
    assert sum(mask.sum() for mask in found.values()) == first.size
    for mask in found.values():
        assert abs(second[mask].mean() - first[mask].mean()) < 0.015
    always = first.all(axis=1)
    assert second[always].mean() < first[always].mean() - 0.05


def test_levels_are_sorted_and_those_without_left_out():
    right = np.ones((4, 1), bool)
    names = [(by, name) for by, name, _ in bins(right, np.array(["10", "9", None, "9"], object))]
    assert names == [("level", "9"), ("level", "10")]
