"""Tables: right numbers, and none from an incomplete or mixed cell."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.report import accuracy, summary
from scripts.report.samples import collect
from scripts.run import record
from scripts.run.errors import UserError

SETTINGS = {
    "verdict": "correct",
    "cells": [["m", "none/full"], ["m", "rtn/w3"]],
    "suites": [{"suite": "s", "benchmarks": ["easy", "hard"], "seeds": [1, 2], "max_model_len": 64}],
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scores of two cells, two benchmarks of four questions and two seeds, by hand."""
    monkeypatch.setattr(record, "_current", {"record": {"inputs": {}, "code": {}, "parameters": {}}})
    right = {("none/full", "easy"): (4, 4), ("none/full", "hard"): (2, 3),
             ("rtn/w3", "easy"): (4, 3), ("rtn/w3", "hard"): (1, 0)}  # fmt: skip
    for benchmark in ("easy", "hard"):
        (tmp_path / "questions").mkdir(exist_ok=True)
        pd.DataFrame({"id": list("abcd"), "level": ["1", "1", "2", ""], "subject": ["", "sums", "", ""]}).to_parquet(
            tmp_path / f"questions/{benchmark}.parquet"
        )
        for scheme in ("none/full", "rtn/w3"):
            quantizer, name = scheme.split("/")
            rows = [
                {
                    "model": "m", "quantizer": quantizer, "scheme": name, "suite": "s", "benchmark": benchmark,
                    "id": question, "seed": seed, "level": "1", "extracted": "1", "extracted_final": "2",
                    "correct": index < right[scheme, benchmark][seed - 1],
                    "correct_final": index < right[scheme, benchmark][seed - 1] - 1,
                    "status": "ok" if index else "no_answer",
                    "status_final": "unparsed" if index == 3 else "ok",
                    "finish_reason": "length" if index == 3 else "stop",
                    "output_tokens": 10 * (index + 1),
                }
                for seed in (1, 2)
                for index, question in enumerate("abcd")
            ]  # fmt: skip
            path = tmp_path / "score/m" / scheme / f"s/{benchmark}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_scores(path, pd.DataFrame(rows))
    return tmp_path


def write_scores(path: Path, rows: pd.DataFrame, code: str = "1") -> None:
    """As a stage writes them, with the digest of its code."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"made_by": json.dumps({"code": code})}), path)


def samples(results: Path, verdict: str = "correct") -> pd.DataFrame:
    settings = SETTINGS | {"verdict": verdict}
    return collect(results / "score", results / "questions", "study", settings).to_pandas()


def test_rows_keep_their_order_when_settings_come_from_a_record(results: Path):
    """Records sort their keys: what is made again for an audit has the study's order all the same."""
    settings = SETTINGS | {"suites": [SETTINGS["suites"][0] | {"benchmarks": ["hard", "easy"]}]}
    settings = json.loads(json.dumps(settings, sort_keys=True))
    made = collect(results / "score", results / "questions", "study", settings).to_pandas()
    assert list(made["benchmark"].unique()) == ["hard", "easy"]


def tables(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = samples(results)
    return accuracy.tabulate(rows), summary.summarize(rows)


def test_accuracy_per_seed(results: Path):
    table, _ = tables(results)
    assert list(table.columns) == accuracy.SCHEMA.names
    assert len(table) == 2 * 2 * 2
    row = table.set_index(["scheme", "benchmark", "seed"]).loc[("full", "hard", 2)]
    assert row["questions"] == row["of"] == 4
    assert (row["accuracy"], row["accuracy_final"], row["truncated"]) == (75, 50, 25)
    assert (row["no_answer"], row["timeouts"], row["errors"]) == (1, 0, 0)
    assert (row["mean_tokens"], row["median_tokens"]) == (25, 25)


def test_tables_rest_on_the_verdict_that_the_study_names(results: Path):
    rows = samples(results, "correct_final")
    assert (rows["right"] == rows["correct_final"]).all()
    assert set(rows["extracted"]) == {"2"}
    row = accuracy.tabulate(rows).set_index(["scheme", "benchmark", "seed"]).loc[("full", "hard", 2)]
    assert (row["accuracy"], row["accuracy_whole"], row["accuracy_final"]) == (50, 75, 50)
    assert (row["no_answer"], row["unparsed"]) == (0, 1)
    means = summary.summarize(rows).set_index(["scheme", "benchmark"])["mean"]
    assert means["full", "hard"] == 37.5


def test_mean_deviation_average_and_drop(results: Path):
    _, table = tables(results)
    rows = table.set_index(["scheme", "benchmark"])
    assert list(table["benchmark"]) == ["easy", "hard", "avg"] * 2
    assert rows.loc[("full", "hard"), "mean"] == 62.5
    assert rows.loc[("full", "hard"), "std"] == pytest.approx(25 / 2**0.5)  # of 50 and 75, n - 1
    assert rows.loc[("full", "avg"), "mean"] == (100 + 62.5) / 2
    assert rows.loc[("w3", "avg"), "mean"] == (87.5 + 12.5) / 2
    assert rows.loc[("w3", "avg"), "std"] == pytest.approx(25 / 2**0.5)  # of 62.5 and 37.5
    assert rows.loc[("w3", "avg"), "drop"] == 50 - 81.25
    assert rows.loc[("full", "avg"), "drop"] == 0


BROKEN = {
    "a row missing": lambda frame: frame.iloc[1:],
    "a row twice": lambda frame: pd.concat([frame, frame.iloc[:1]]),
    "a seed of another run": lambda frame: frame.replace({"seed": {2: 3}}),
    "a question of another set": lambda frame: frame.replace({"id": {"a": "z"}}),
    "one row for another": lambda frame: pd.concat([frame.iloc[1:], frame.iloc[1:2]]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_incomplete_or_mixed_cell_stops_the_report_by_name(results: Path, case: str):
    path = results / "score/m/rtn/w3/s/hard.parquet"
    write_scores(path, BROKEN[case](pd.read_parquet(path)))
    with pytest.raises(UserError, match=r"m/rtn/w3/s/hard\.parquet: .* 8 \(4 questions × 2 seeds\)"):
        tables(results)


def test_cells_that_were_judged_by_different_rules_are_not_compared(results: Path):
    path = results / "score/m/rtn/w3/s/hard.parquet"
    write_scores(path, pd.read_parquet(path), code="2")
    with pytest.raises(UserError, match=r"w3/s/hard\.parquet: .* judged by other code than .*full/s/hard\.parquet"):
        tables(results)


def test_one_seed_has_no_deviation_and_no_baseline_no_drop(results: Path):
    rows = samples(results)
    one = rows[(rows["seed"] == 1) & (rows["scheme"] == "w3")]
    table = summary.summarize(one)
    assert table["std"].isna().all()
    assert table["drop"].isna().all()
    assert json.loads(table["mean"].to_json(orient="values")) == [100, 25, 62.5]
