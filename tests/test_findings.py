"""Claims and numbers of the paper: reproduced from its own rows, judged on a study's."""

import numpy as np
import pandas as pd
import pytest

from scripts.report import findings, paper
from scripts.report._claims import CLAIMS, Rule, above, at_least, at_most, below, beyond, within
from scripts.run.read import read_models
from tests.conftest import ROOT
from tests.test_tables import CELLS, RIGHT, rows_of

PUBLISHED = pd.read_csv(ROOT / "resources/paper/tables.csv")


def test_every_average_and_drop_of_the_paper_follows_from_its_benchmarks():
    """Within rounding: a mean of five numbers rounded to 0.05, itself rounded, and a difference of two such."""
    wide = PUBLISHED.pivot_table(index=["model", "quantizer", "scheme"], columns="benchmark", values="mean", sort=False)
    assert wide.shape == (117, 6)
    average = wide.drop(columns="avg").mean(axis=1)
    assert (average - wide["avg"]).abs().max() <= 0.1 + 1e-9
    printed = PUBLISHED[PUBLISHED["benchmark"] == "avg"].set_index(wide.index.names)["drop"]
    baseline = average.xs(("none", "full"), level=("quantizer", "scheme"))
    drop = average - baseline.reindex(wide.index.get_level_values("model")).to_numpy()
    assert printed.notna().sum() == 109
    assert (drop - printed).abs().max() <= 0.15 + 1e-9
    evidence = of_paper()
    assert evidence.drops[0].mean(axis=1) == pytest.approx(printed.loc[evidence.cells].to_numpy(), abs=0.15)


def of_paper(**changes: pd.Series) -> findings.Evidence:
    facts = {name: {key: m[key] for key in ("parameters", "origin", "key_bias")} for name, m in read_models().items()}
    settings = {"models": facts, "schemes": {}, "own_reasoning": []}
    return findings.of_paper(PUBLISHED.assign(**changes), settings)


def verdicts(evidence: findings.Evidence) -> dict[str, str]:
    return {row["claim"]: row["verdict"] for row in findings.findings("s", {}, evidence)}


def test_which_claims_the_papers_rows_carry():
    assert verdicts(of_paper()) == {
        "w8a8kv8-lossless": "supported",
        "w4-near-lossless": "supported",
        "kv4-near-lossless": "supported",
        "w3-risky": "supported",
        "kv3-risky": "supported",
        "w4a4kv4-risky": "supported",
        "larger-lose-less": "supported",
        "harder-lose-more": "supported",
        "distilled-lose-less": "undetermined",
        "not-longer": "not tested",
        "domain-matters-for-gptq": "not tested",
        "domain-matters-for-gptq-only": "not tested",
        "awq-before-gptq-4": "undetermined",
        "awq-before-gptq-3": "contradicted",
        "flatquant-best": "supported",
        "quarot-kv-fails-on-biases": "supported",
        "more-steps-help": "not tested",
        "larger-at-equal-memory": "not tested",
    }
    units = {row["claim"]: row for row in findings.findings("s", {}, of_paper())}
    assert units["w8a8kv8-lossless"]["n"] == 8 + 8 + 7
    assert units["w8a8kv8-lossless"]["exceptions"] == ["r1-qwen-1.5b smoothquant/w8a8kv8-r4"]
    assert set(units["kv4-near-lossless"]["exceptions"]) == {"r1-qwen-1.5b quarot/kv4", "r1-qwen-7b quarot/kv4"}
    assert units["distilled-lose-less"]["n"] == 14  # R1-Qwen-32B and QwQ-32B


def test_claims_fall_where_numbers_do():
    """The paper's rows with gains in place of losses."""
    baseline = PUBLISHED[PUBLISHED["quantizer"] == "none"].set_index(["model", "benchmark"])["mean"]
    before = baseline.reindex(pd.MultiIndex.from_frame(PUBLISHED[["model", "benchmark"]])).to_numpy()
    found = verdicts(of_paper(mean=2 * before - PUBLISHED["mean"]))
    for claim in ("w3-risky", "kv3-risky", "w4a4kv4-risky", "larger-lose-less", "harder-lose-more", "flatquant-best"):
        assert found[claim] == "contradicted", claim
    assert found["awq-before-gptq-3"] == "supported"


def test_claims_of_a_study():
    settings = {
        "models": {"m": {"parameters": 1, "origin": "distilled", "key_bias": "none"}},
        "schemes": {"gptq/w3": {"corpus": "own"}, "gptq/w3-plain": {"corpus": "text"}},
        "own_reasoning": ["own"],
    }
    evidence = findings.of_study(rows_of(RIGHT, CELLS), settings)
    made = list(findings.findings("s", {"t": evidence}, of_paper()))
    assert {(row["source"], row["suite"]) for row in made} == {("study", "t"), ("paper", None)}
    rows = {row["claim"]: row for row in made if row["suite"] == "t"}
    assert list(rows) == [claim.name for claim in CLAIMS]
    assert rows["w3-risky"]["value"] == pytest.approx(-25)  # median of -31.25 and -18.75
    assert rows["domain-matters-for-gptq"]["value"] == pytest.approx(50 - 62.5)
    assert rows["domain-matters-for-gptq"]["cells"] == ["m gptq/w3 − m gptq/w3-plain"]
    assert rows["not-longer"]["verdict"] == "contradicted"
    assert rows["kv4-near-lossless"]["verdict"] == "not tested"


def verdicts_of(shares: dict[tuple, float]) -> dict:
    """Invented verdicts on 200 questions of two benchmarks; by cell the share that is right."""
    rng = np.random.default_rng(0)
    return {(*cell, b): rng.random((200, 2)) < share for cell, share in shares.items() for b in ("x", "y")}


def test_more_steps_help():
    """From the shortest to the longest thoughts; full precision is no quantized model."""
    suites = {"short": 0.3, "middle": 0.4, "long": 0.8}
    shares = {
        ("m", *kind, suite): share for kind in (("none", "full"), ("rtn", "w3")) for suite, share in suites.items()
    }
    right = verdicts_of(shares | {("m", "rtn", "w2", suite): 0.2 for suite in suites})
    names, found = findings.steps_of(right, list(suites))
    assert names == ["m rtn/w3", "m rtn/w2"]
    assert found.shape == (10_001, 2)
    by_hand = [100 * np.mean([right["m", "rtn", "w3", suite, b].mean() for b in "xy"]) for suite in ("short", "long")]
    assert found[0, 0] == pytest.approx(by_hand[1] - by_hand[0])
    claim = next(claim for claim in CLAIMS if claim.name == "more-steps-help")

    def verdict(keep: str) -> str:
        here = {key: value for key, value in right.items() if key[2] in ("full", keep)}
        evidence = findings.Evidence(
            [], np.empty((10_001, 0, 1)), {}, None, {}, {}, [], findings.steps_of(here, list(suites))
        )
        return findings.judge(claim, evidence)["verdict"]

    assert [verdict("w3"), verdict("w2"), verdict("none")] == ["supported", "undetermined", "not tested"]


def test_at_equal_memory():
    """Pairs of models of different sizes that take as much, in the same suite; the larger minus the smaller."""
    memory = {
        ("small", "none", "full", "s"): 100, ("large", "rtn", "w4", "s"): 105, ("large", "rtn", "w8", "s"): 200,
        ("small", "none", "full", "t"): 100, ("alike", "rtn", "w4", "s"): 100,
    }  # fmt: skip
    models = {"small": {"parameters": 10}, "large": {"parameters": 20}, "alike": {"parameters": 11}}
    right = verdicts_of(dict.fromkeys(memory, 0.5) | {("large", "rtn", "w4", "s"): 0.9})
    names, found = findings.equal_memory(right, memory, models)
    assert names == ["large rtn/w4 − small none/full", "large rtn/w4 − alike rtn/w4"]
    assert found[0] == pytest.approx([40, 40], abs=8)


@pytest.mark.parametrize(
    ("rule", "supported", "contradicted", "undetermined"),
    [
        (at_least(-1), (-1, 0), (-3, -1.1), (-2, 0)),
        (at_most(5), (0, 5), (5.1, 9), (4, 6)),
        (above(0), (0.1, 1), (-1, 0), (-1, 1)),
        (below(-3), (-9, -3.1), (-3, -1), (-4, -2)),
        (within(1), (-1, 1), (1.1, 2), (0, 2)),
        (beyond(1), (-3, -1.1), (-1, 1), (-2, 0)),
    ],
)
def test_rules(rule: Rule, supported: tuple, contradicted: tuple, undetermined: tuple):
    found = [rule(*ends) for ends in (supported, contradicted, undetermined)]
    assert found == ["supported", "contradicted", "undetermined"]


def test_against_the_paper():
    """One cell as the paper has it, one ten points off; benchmarks and cells that it lacks are left out."""
    rng = np.random.default_rng(0)
    cells = {("none", "full"): 0.847, ("gptq", "w3g128"): 0.653, ("rtn", "w4"): 0.5}  # math500: 84.7, 75.3, -
    pieces = []
    for (quantizer, scheme), share in cells.items():
        for benchmark in ("math500", "addition"):
            right = rng.random((500, 3)) < share
            frame = pd.DataFrame({"id": np.repeat(np.arange(500), 3), "seed": np.tile([1, 2, 3], 500)})
            keys = {
                "model": "r1-qwen-1.5b",
                "quantizer": quantizer,
                "scheme": scheme,
                "suite": "t",
                "benchmark": benchmark,
            }
            pieces.append(frame.assign(correct=right.ravel(), right=False, study="s", extracted="1", of=500, **keys))
    frame = pd.concat(pieces).astype({"id": str}).assign(
        correct_final=False, status="ok", finish_reason="stop", output_tokens=1, thinking_tokens=None, think_again=None,
        discourage=None,
        stop_loops=None,
    )  # fmt: skip
    table = paper.compare(frame, PUBLISHED)
    assert list(table.columns) == paper.SCHEMA.names
    assert table[["quantizer", "benchmark"]].to_numpy().tolist() == [["none", "math500"], ["gptq", "math500"]]
    assert table["within"].tolist() == [True, False]
    assert table["standard_error"].between(0.5, 2).all()
    assert table["difference"].iloc[1] == pytest.approx(-10, abs=3)


def test_the_error_of_ours_is_that_of_its_samples():
    rng = np.random.default_rng(1)
    chance = rng.beta(0.5, 0.5, (300, 1))
    runs = [(rng.random((300, 3)) < chance) for _ in range(500)]
    spread = 100 * np.std([run.mean() for run in runs])
    assert np.mean([paper.sampling_error(run) for run in runs]) == pytest.approx(spread, rel=0.1)
    assert paper.sampling_error(runs[0][:, :1]) > spread  # one seed
