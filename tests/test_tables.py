"""The tables of a study: right by hand, documented, read by everyone, equal for equal inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from scripts.report import (
    ablations,
    accuracy,
    baselines,
    budget,
    difficulty,
    drops,
    efficiency,
    errors,
    findings,
    headline,
    lengths,
    paper,
    scaling,
    summary,
)
from scripts.report._classes import MARGINS
from scripts.report._tables import verdict_of, write_frame
from scripts.run import record
from scripts.run.describe import table_modules, tables
from scripts.run.read import read_models
from tests.conftest import ROOT, Copy

CELLS = [("m", "none", "full"), ("m", "gptq", "w3"), ("m", "gptq", "w3-plain")]
# benchmark → cell → right answers to the questions a, b, c, d in seed 1, then in seed 2
RIGHT = {
    "easy": ["1111 1111", "1111 1110", "1111 1111"],
    "hard": ["1100 1110", "1000 0000", "0000 0011"],
}
PUBLISHED = pd.read_csv(ROOT / "resources/paper/tables.csv")


def rows_of(right: dict[str, list[str]], cells: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Samples as `samples.parquet` has them, in its order."""
    rows = []
    for index, (model, quantizer, scheme) in enumerate(cells):
        for benchmark, verdicts in right.items():
            for seed, answers in enumerate(verdicts[index].split(), 1):
                for question, verdict in zip("abcd", answers, strict=True):
                    correct = verdict == "1"
                    rows.append(
                        {
                            "study": "s", "model": model, "quantizer": quantizer, "scheme": scheme, "suite": "t",
                            "benchmark": benchmark, "id": question, "seed": seed,
                            "max_model_len": 400, "thinking_tokens": None, "think_again": None, "discourage": None,
                            "stop_loops": None,
                            "of": 4,
                            "level": None if benchmark == "easy" else "1" if question in "ab" else "2",
                            "subject": None, "extracted": "right" if correct else f"wrong {question}",
                            "verdict": "correct", "right": correct, "correct": correct, "correct_final": correct,
                            "status": "ok" if correct else "no_answer",
                            "finish_reason": "stop" if question != "d" else "length",
                            "output_tokens": (100 if correct else 200) * (1 + index),
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def samples() -> pd.DataFrame:
    return rows_of(RIGHT, CELLS)


def test_drops_by_hand(samples: pd.DataFrame):
    table = drops.tabulate(samples)
    assert list(table.columns) == drops.SCHEMA.names
    assert list(table["benchmark"]) == ["easy", "hard", "avg"] * 2
    easy, hard, average = (row._asdict() for row in table[table["scheme"] == "w3"].drop(columns="class").itertuples())
    assert (easy["questions"], easy["seeds"], average["questions"]) == (4, 2, 8)
    assert (hard["baseline"], hard["accuracy"], hard["drop"]) == (62.5, 12.5, -50)
    assert (average["baseline"], average["accuracy"], average["drop"]) == (81.25, 50, -31.25)
    assert [(row["wins"], row["losses"]) for row in (easy, hard, average)] == [(0, 1), (0, 3), (0, 4)]
    assert [row["p"] for row in (easy, hard, average)] == [1, 0.25, 0.125]
    assert [row["comparisons"] for row in (easy, hard, average)] == [4, 4, 2]
    assert average["p_adjusted"] == 0.25  # of two cells
    for row in (easy, hard, average):
        assert row["low"] <= row["drop"] <= row["high"]
        assert row["detectable"] > 0
    assert list(table["class"].unique()) == ["undetermined"]


def test_drops_tell_lossless_from_risky():
    flat = "1111 1111"
    right = {f"b{i}": [flat, "0000 0000", flat] for i in range(2)}
    frame = pd.concat(  # more questions, so that intervals are narrow
        [rows_of(right, CELLS).assign(id=lambda f, i=i: f["id"] + str(i)) for i in range(60)]
    )
    classes = drops.tabulate(frame).set_index(["scheme", "benchmark"])["class"]
    assert set(classes.loc["w3"]) == {"risky"}
    assert set(classes.loc["w3-plain"]) == {"lossless"}
    table = drops.tabulate(frame)
    assert (table["high_joint"] - table["low_joint"] > table["high"] - table["low"]).all()
    assert ((table["p_noninferior"] <= 0.025) == (table["class"] == "lossless")).all()
    wide = drops.tabulate(frame, {"lossless": 100, "risky": 100})
    assert set(wide["class"]) == {"lossless"}
    assert (wide["p_noninferior"] <= 0.025).all()
    assert set(wide["margin_risky"]) == {100}
    assert (table["seeds_needed"] == 2).all()  # all are decided
    assert table["recovery"].to_numpy() == pytest.approx((100 * table["accuracy"] / table["baseline"]).to_numpy())
    assert ((table["recovery_low"] <= table["recovery"]) & (table["recovery"] <= table["recovery_high"])).all()


def test_passes_and_votes():
    three = {"easy": ["1110 1101 1100"], "hard": ["1000 0000 0000"]}
    table = summary.summarize(rows_of(three, CELLS[:1])).set_index("benchmark")
    assert list(table["pass_k"]) == [100, 25, 62.5]
    # a and b are right thrice, c and d once and wrong twice in the same words
    assert list(table["majority"]) == [50, 0, 25]
    two = summary.summarize(rows_of(RIGHT, CELLS))
    assert two["majority"].isna().all()
    assert two["pass_k"].notna().all()


def test_lengths_by_hand(samples: pd.DataFrame):
    table = lengths.measure(samples).set_index(["scheme", "benchmark"])
    row = table.loc[("w3", "hard")]
    assert (row["mean"], row["median"], row["p90"], row["max"]) == (375, 400, 400, 400)
    assert (row["mean_right"], row["mean_wrong"], row["truncated"]) == (200, 400, 25)
    assert row["ratio"] == 375 / 137.5
    assert row["low"] <= row["ratio"] <= row["high"]
    assert table.loc["full", ["ratio", "low", "high"]].isna().all(axis=None)
    assert np.isnan(table.loc[("full", "easy"), "mean_wrong"])


def test_budget_by_hand(samples: pd.DataFrame):
    """Right answers of the baseline have 100 tokens, of w3 200; wrong ones twice as many; the limit is 400."""
    table = budget.tabulate(samples).set_index(["scheme", "benchmark", "tokens"])
    columns = ["accuracy", "baseline", "ended"]
    assert table.loc[("full", "hard", 100), columns].tolist() == [62.5, 62.5, 62.5]
    assert table.loc[("w3", "hard", 100), columns].tolist() == [0, 62.5, 0]
    assert table.loc[("w3", "hard", 200), columns].tolist() == [12.5, 62.5, 12.5]
    assert table.loc[("w3-plain", "hard", 200), columns].tolist() == [0, 62.5, 0]  # 300 and 600 tokens
    assert table.loc[("w3-plain", "hard", 400), columns].tolist() == [25, 62.5, 100]  # the limit: as they were judged
    whole = table.xs(400, level="tokens")
    lost = drops.tabulate(samples).set_index(["scheme", "benchmark"])
    for name in ("accuracy", "baseline", "drop", "low", "high"):
        assert whole.loc[["w3", "w3-plain"], name].tolist() == lost[name].tolist(), name
    assert table.loc["full", ["drop", "low", "high"]].isna().all(axis=None)
    assert sorted(set(table["share"])) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def test_difficulty_by_hand(samples: pd.DataFrame):
    table = difficulty.compare(samples)
    levels = table[(table["by"] == "level") & (table["scheme"] == "w3")].set_index("bin")
    assert set(levels["benchmark"]) == {"hard"}  # the other states no levels
    assert levels.loc["1", ["n", "baseline", "accuracy", "drop"]].tolist() == [4, 100, 25, -75]
    assert levels.loc["2", ["n", "baseline", "accuracy", "drop"]].tolist() == [4, 25, 0, -25]
    rates = table[(table["by"] == "solve_rate") & (table["scheme"] == "w3") & (table["benchmark"] == "hard")]
    rates = rates.set_index("bin")
    # In the other seed the baseline knew a, b (seed 1's answers), or a, b, c (seed 2's).
    assert rates.loc["1/1", ["n", "baseline", "accuracy"]].tolist() == [5, 80, 20]
    assert rates.loc["0/1", ["n", "baseline", "accuracy"]].tolist() == [3, pytest.approx(100 / 3), 0]


def test_errors_by_hand(samples: pd.DataFrame):
    table = errors.count(samples)
    rows = table[(table["scheme"] == "w3") & (table["benchmark"] == "hard")]
    found = {(row.status, row.finish_reason): (row.count, row.share) for row in rows.drop(columns="study").itertuples()}
    assert {key: value[1] for key, value in found.items()} == {
        ("no_answer", "length"): 25, ("no_answer", "stop"): 62.5, ("ok", "stop"): 12.5,
    }  # fmt: skip
    assert rows["count"].sum() == 8


def test_ablations_are_pairs_that_differ_in_one_setting(samples: pd.DataFrame):
    schemes = {
        "none/full": {}, "gptq/w3": {"bits": 3, "corpus": "reasoning"}, "gptq/w3-plain": {"bits": 3, "corpus": "plain"},
    }  # fmt: skip
    table = ablations.tabulate(samples, schemes)
    assert list(table["benchmark"]) == ["easy", "hard", "avg"]
    row = table[table["benchmark"] == "hard"].iloc[0]
    assert row[["scheme_a", "scheme_b", "setting", "value_a", "value_b"]].tolist() == [
        "w3", "w3-plain", "corpus", "reasoning", "plain",
    ]  # fmt: skip
    assert (row["accuracy_a"], row["accuracy_b"], row["difference"]) == (12.5, 25, 12.5)
    schemes["gptq/w3-plain"]["bits"] = 4  # a second difference
    assert len(ablations.tabulate(samples, schemes)) == 0


def test_scaling_by_hand(samples: pd.DataFrame):
    """Each cell against itself one rung below; what stands in no ladder is left out."""
    small = samples.assign(suite="small", thinking_tokens=8, right=False, output_tokens=10)
    other = samples.assign(suite="other")
    both = pd.concat([samples, small, other])
    table = scaling.tabulate(both, [["small", "t"]])
    assert list(table.columns) == scaling.SCHEMA.names
    assert list(dict.fromkeys(zip(table["suite"], table["below"], strict=True))) == [("small", None), ("t", "small")]
    table = table.set_index(["scheme", "suite", "benchmark"])
    assert table.loc["full", "gain"].loc["small"].isna().all()
    row = table.loc[("w3", "t", "avg")]
    assert (row["accuracy"], row["gain"], row["questions"]) == (50, 50, 8)
    assert row["low"] <= 50 <= row["high"]
    assert pd.isna(row["thinking_tokens"])
    assert table.loc[("w3", "small", "hard"), ["thinking_tokens", "mean_tokens", "accuracy"]].tolist() == [8, 10, 0]
    assert table.loc[("full", "t", "hard"), "gain"] == 62.5  # of itself, not of the baseline of another suite
    assert len(scaling.tabulate(samples, [])) == 0


def test_sizes_by_hand():
    facts = read_models()["r1-qwen-7b"]
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert efficiency.weight_size(facts, {}, False) == (16, 2 * facts["parameters"])
    bits, size = efficiency.weight_size(facts, {"bits": 4, "group_size": 128}, False)
    assert bits == 4.125  # a scale of 16 bits for 128 weights
    assert size == linear * 4.125 / 8 + 2 * (facts["parameters"] - linear)
    assert efficiency.weight_size(facts, {"bits": 4}, True)[0] == 4.25  # MXFP4
    one, four = (
        efficiency.weight_size(facts, {"bits": 8, "group_size": -1, "row_groups": groups}, False)[1]
        for groups in (1, 4)
    )
    assert four - one == 28 * 3 * 2 * 2 * 3584  # three more scales of two bytes for each output of o_proj and down_proj
    assert efficiency.kv_size(facts, {}, False) == 2 * 28 * 4 * 128 * 2
    assert efficiency.kv_size(facts, {"kv_bits": 4}, False) == 2 * 28 * 4 * (128 * 4 + 16) / 8
    assert efficiency.kv_size(facts, {"kv_bits": 4, "before_bias": True}, False) == 28 * 4 * (2 * 128 * 4 + 16) / 8


def test_times_are_those_of_the_record():
    machine = {"gpus": [{"name": "H200"}] * 2, "cpu": {"model": "Xeon", "cores": 2}, "wall_seconds": 30.0}
    facts = {"generated": 5, "output_tokens": 100, "tokens_per_second": 50.0}
    assert efficiency.timed(machine | {"facts": facts}) == {
        "generated": 5, "tokens_per_second": 50, "seconds": 2, "wall_seconds": 30, "device": "2 × H200",
    }  # fmt: skip
    assert efficiency.timed(machine | {"facts": facts | {"tokens_per_second": None}})["seconds"] is None


def two_suites(samples: pd.DataFrame) -> pd.DataFrame:
    """The same beside a suite that asks two of four questions of the second benchmark, with one seed."""
    hard = samples[(samples["benchmark"] == "hard") & samples["id"].isin(["a", "b"]) & (samples["seed"] == 2)]
    order = ["model", "quantizer", "scheme"]
    both = pd.concat([samples, hard.assign(suite="u")])
    places = {cell: i for i, cell in enumerate(dict.fromkeys(both[order].itertuples(index=False, name=None)))}
    keys = [places[cell] for cell in both[order].itertuples(index=False, name=None)]
    return both.iloc[np.argsort(keys, kind="stable")]


def test_a_suite_is_an_axis_of_every_table(samples: pd.DataFrame):
    """What is said of one suite is what would be said without the other, but for the number of comparisons."""
    schemes = {"none/full": {}, "gptq/w3": {"corpus": "a"}, "gptq/w3-plain": {"corpus": "b"}}
    both, keys = two_suites(samples), ["model", "quantizer", "scheme", "suite", "benchmark"]
    for tabulate in (
        drops.tabulate, lengths.measure, difficulty.compare, errors.count, summary.summarize, accuracy.tabulate,
        budget.tabulate, lambda rows: baselines.tabulate(rows, {}, MARGINS),
        lambda rows: ablations.tabulate(rows, schemes),
    ):  # fmt: skip
        table, alone = tabulate(both), tabulate(samples)
        assert set(table["suite"]) == {"t", "u"}
        chance = ["p_adjusted", "comparisons", "low_joint", "high_joint", "class_joint"]
        kept = [name for name in table if name not in chance]
        rows = table.loc[table["suite"] == "t", kept].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, alone[kept].reset_index(drop=True))
        assert set(table["benchmark"][table["suite"] == "u"]) <= {"hard", "avg"}
    table = drops.tabulate(both).set_index(keys[2:])
    row = table.loc[("w3", "u", "hard")]
    assert (row["questions"], row["of"], row["seeds"]) == (2, 4, 1)
    assert (row["baseline"], row["accuracy"], row["drop"]) == (100, 0, -100)  # of the same suite
    assert (table.loc[("w3", "u", "avg"), "drop"], table.loc[("w3", "t", "avg"), "drop"]) == (-100, -31.25)
    assert set(table["comparisons"]) == {4, 6}  # averages; benchmarks
    assert summary.summarize(both).set_index(keys[2:]).loc[("w3", "u", "avg"), "drop"] == -100


def test_the_headline_has_a_table_for_each_suite_and_says_how_many_were_asked(samples: pd.DataFrame, tmp_path: Path):
    both = two_suites(samples)
    path, other = tmp_path / "summary.parquet", tmp_path / "drops.parquet"
    write_frame(path, summary.summarize(both), summary.SCHEMA, verdict="correct")
    write_frame(other, drops.tabulate(both, {"lossless": 0.5, "risky": 2}), drops.SCHEMA)
    tables = headline.headlines(pd.read_parquet(path), pd.read_parquet(other))
    assert {suite: list(table.columns[2:-2]) for suite, table in tables.items()} == {
        "t": ["easy", "hard", "avg"], "u": ["hard", "avg"],
    }  # fmt: skip
    written = headline.markdown(tables, headline.note(path, other))
    assert "lossless (from -0.5), fair (-2 to -0.5), risky (below -2)" in written
    assert written.index("**t**") < written.index("**u**")
    assert written.endswith("Questions asked: hard of u 2 of 4.\n")
    assert headline.latex(tables, "").count(r"\begin{tabular}") == 2


def test_baselines_by_hand(samples: pd.DataFrame):
    expected = {
        "m": {"easy": {"accuracy": 99, "source": "a card"}, "hard": {"accuracy": 5, "samples": 9, "source": "x"}}
    }
    table = baselines.tabulate(samples, expected, MARGINS)
    assert list(table.columns) == baselines.SCHEMA.names
    easy, hard, average = table.to_dict("records")
    assert [row["benchmark"] for row in (easy, hard, average)] == ["easy", "hard", "avg"]
    assert (hard["accuracy"], hard["expected"], hard["difference"], hard["source"]) == (62.5, 5, 57.5, "x")
    assert [row["status"] for row in (easy, hard, average)] == ["verified", "off", "off"]
    # One answer of eight more has turned; of hard question c varies, of two samples here and of nine there.
    width = 1.96 * np.sqrt(12.5**2 * (1 + 2))
    assert (easy["low"], easy["high"]) == pytest.approx((1 - width, 1 + width))
    width = 1.96 * np.sqrt((12.5**2 + 12.5**2) * (1 + 2 / 9))
    assert (hard["low"], hard["high"]) == pytest.approx((57.5 - width, 57.5 + width))
    assert (easy["noise"], hard["noise"], average["noise"]) == (0, 25, 12.5)
    assert hard["noise_low"] < 25 < hard["noise_high"]
    assert not table["false_alarm"].any()
    limited = baselines.tabulate(samples.assign(thinking_tokens=9), expected, MARGINS)
    assert set(limited["status"]) == set(baselines.tabulate(samples, {}, MARGINS)["status"]) == {"unverified"}
    one = baselines.tabulate(samples[samples["seed"] == 1], expected, MARGINS)
    assert one["noise"].isna().all()


def test_a_baseline_as_published_is_verified_in_nineteen_of_twenty_studies():
    """Asked all questions or some, with as many samples as the card's or fewer."""
    rng = np.random.default_rng(7)
    for asked, seeds, drawn in ((200, 3, 3), (200, 4, 64), (100, 3, 64)):
        chance = rng.beta(0.6, 0.5, (200, 2000))
        theirs = rng.binomial(drawn, chance) / drawn
        verdicts = rng.random((asked, seeds, 2000)) < chance[:asked, None]
        ours = verdicts.mean(axis=1)
        within = [
            abs(100 * (ours[:, i].mean() - theirs[:, i].mean()))
            <= 1.96 * baselines.error_of(verdicts[:, :, i], drawn, 200)
            for i in range(2000)
        ]
        assert 0.935 <= np.mean(within) <= 0.965, (asked, seeds, drawn)


def test_a_baseline_seems_to_lose_against_itself_in_few_studies(samples: pd.DataFrame):
    rng = np.random.default_rng(8)
    ids, seeds, studies = 150, 4, 120
    chance, frames = rng.beta(0.6, 0.5, ids), []
    keys = pd.MultiIndex.from_product([range(ids), range(seeds)], names=["id", "seed"]).to_frame(index=False)
    fixed = samples[samples["quantizer"] == "none"].iloc[0]
    for study in range(studies):
        right = rng.random(len(keys)) < np.repeat(chance, seeds)
        frames.append(pd.DataFrame(dict(fixed), index=keys.index).assign(**keys, right=right, model=f"m{study:03}"))
    table = baselines.tabulate(pd.concat(frames), {}, MARGINS).query("benchmark == 'avg'")
    assert len(table) == studies
    assert table["false_alarm"].mean() <= 0.05
    assert (table["noise_low"] > 0).mean() + (table["noise_high"] < 0).mean() == pytest.approx(0.05, abs=0.05)


# As files


def test_a_study_of_baselines_alone_has_all_tables(samples: pd.DataFrame, tmp_path: Path):
    rows = samples[samples["quantizer"] == "none"]
    evidence = findings.of_study(rows, {"models": {}, "schemes": {}, "own_reasoning": []})
    made = {
        drops: drops.tabulate(rows), scaling: scaling.tabulate(rows, []),
        ablations: ablations.tabulate(rows, {"none/full": {}}),
        difficulty: difficulty.compare(rows), lengths: lengths.measure(rows), errors: errors.count(rows),
        paper: paper.compare(rows, PUBLISHED), baselines: baselines.tabulate(rows, {}, MARGINS),
        findings: pd.DataFrame(findings.findings("s", {"t": evidence}, evidence)),
    }  # fmt: skip
    for module, frame in made.items():
        path = tmp_path / f"{module.__name__}.parquet"
        write_frame(path, frame, module.SCHEMA)
        assert pq.read_schema(path).equals(module.SCHEMA)
    assert len(made[drops]) == len(made[ablations]) == len(made[difficulty]) == len(made[paper]) == 0
    assert {row.verdict for row in made[findings].itertuples()} == {"not tested"}


def test_equal_inputs_give_equal_bytes(samples: pd.DataFrame, tmp_path: Path):
    """Also where the rows of one cell lie in another order: questions and seeds are paired by name."""
    assert list(samples["scheme"].unique()) == ["full", "w3", "w3-plain"]
    other = pd.concat([samples[samples["scheme"] != "w3-plain"], samples[samples["scheme"] == "w3-plain"].iloc[::-1]])
    for name, tabulate in (("drops", drops.tabulate), ("lengths", lengths.measure), ("difficulty", difficulty.compare)):
        contents = []
        for rows in (samples, samples, other):
            path = tmp_path / f"{name}.parquet"
            write_frame(
                path, tabulate(rows).sort_values(["scheme", "benchmark"], kind="stable"), table_modules()[name].SCHEMA
            )
            contents.append(path.read_bytes())
        assert contents[0] == contents[1] == contents[2], name


def test_a_table_with_other_columns_is_refused(samples: pd.DataFrame, tmp_path: Path):
    with pytest.raises(ValueError, match="columns"):
        write_frame(tmp_path / "x.parquet", errors.count(samples).drop(columns="share"), errors.SCHEMA)


def test_tables_of_a_study_are_read_by_everyone(built: Copy):
    folder = built.root / "results/report/tiny"
    modules = table_modules()
    assert {path.stem for path in folder.glob("*.parquet")} == modules.keys()
    for name, module in modules.items():
        path = folder / f"{name}.parquet"
        schema = pq.read_schema(path)
        assert schema.equals(module.SCHEMA), name
        assert [field.metadata for field in schema] == [field.metadata for field in module.SCHEMA], name
        table = pq.read_table(path)
        frame, polar = pd.read_parquet(path), pl.read_parquet(path)
        duck = duckdb.sql(f"select * from '{path}'").to_arrow_table()  # noqa: S608 - the path is the test's own
        for columns, rows in (
            (list(frame.columns), len(frame)), (polar.columns, len(polar)), (duck.column_names, len(duck)),
        ):  # fmt: skip
            assert (columns, rows) == (schema.names, len(table)), name
        assert polar.to_arrow().cast(schema).to_pylist() == duck.cast(schema).to_pylist() == table.to_pylist(), name
        assert len(table) > 0 or name in ("ablations", "scaling", "paper", "magnitudes"), name


def test_tables_of_a_study_agree(built: Copy):
    folder = built.root / "results/report/tiny"
    read = {name: pd.read_parquet(folder / f"{name}.parquet") for name in table_modules()}
    assert len(read["samples"]) == 6 * 2 * 200 * 2
    keys = ["model", "quantizer", "scheme", "suite", "benchmark"]
    both = read["drops"].merge(read["summary"], on=keys, suffixes=("", "_summary"))
    assert len(both) == 4 * 3
    assert both["drop"].to_numpy() == pytest.approx(both["drop_summary"].to_numpy())
    assert both["accuracy"].to_numpy() == pytest.approx(both["mean"].to_numpy())
    assert read["errors"].groupby(keys)["count"].sum().eq(400).all()
    assert read["efficiency"][["tokens_per_second", "wall_seconds"]].gt(0).all(axis=None)
    assert read["efficiency"]["device"].str.contains("cores").all()
    assert read["ablations"][["setting", "value_a"]].drop_duplicates().to_numpy().tolist() == []
    assert set(read["findings"]["source"]) == {"study", "paper"}


def test_every_table_says_on_which_verdict_it_rests(built: Copy):
    for path in (built.root / "results/report/tiny").glob("[!m]*.parquet"):  # magnitudes rest on none
        expected = "correct" if path.stem == "paper" else "correct_final"
        assert verdict_of(path) == expected, path
    rows = pd.read_parquet(built.root / "results/report/tiny/samples.parquet")
    assert (rows["right"] == rows["correct_final"]).all()
    assert (rows["correct"] >= rows["correct_final"]).all()


def test_the_readme_of_the_tables_follows_from_their_schemas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert Path("scripts/report/README.md").read_text() == tables()


def test_the_headline_as_markdown_latex_and_in_colour(built: Copy):
    folder = built.root / "results/report/tiny"
    paths = [folder / f"{name}.parquet" for name in ("summary", "drops")]
    tables, note = headline.headlines(*map(pd.read_parquet, paths)), headline.note(*paths)
    assert (folder / "summary.md").read_text() == headline.markdown(tables, note)
    table = tables["arithmetic"]
    assert "(correct_final)" in (folder / "summary.md").read_text()
    row = table.set_index(["model", "quantizer/scheme"]).loc[("tiny-qwen-s", "rtn/w2g32")]
    lines = (folder / "summary.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == ["tiny-qwen-s", "rtn/w2g32", *row]
    assert row["class"] == "risky"
    assert f"{row['drop']} & risky" in (folder / "summary.tex").read_text()
    command = [sys.executable, "-m", "scripts.report.show", "results/report/tiny"]
    done = subprocess.run(
        command, cwd=built.root, check=True, capture_output=True, text=True, env=os.environ | {"FORCE_COLOR": "1"}
    )
    assert f"\x1b[31m{row['drop']}\x1b[0m" in done.stdout


def test_a_record_stands_for_the_headline(built: Copy):
    path = record.record_path(built.root / "results/report/tiny/summary.md")
    outputs = json.loads(path.read_text())["outputs"]
    assert list(outputs) == ["results/report/tiny/summary.md", "results/report/tiny/summary.tex"]
