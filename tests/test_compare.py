"""Two logs of anybody's: read as their tools wrote them, paired, refused where they are not of the same questions.

`tests/logs/` holds what lm-evaluation-harness 0.4.13 and inspect_ai 0.3.285 wrote of tiny-qwen-s, and of a
copy of it rounded to three bits: 24 sums; and lighteval 0.13.0 of the same sums, the copy in two bits (gptq/w2g32).
Lighteval's own tasks were taken out of its folder, for some fetch files as they are imported.
"""

import json
import random
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from scripts.compare import __main__ as compare
from scripts.compare import logs
from scripts.run.errors import UserError
from tests.conftest import ROOT, Copy

LOGS = ROOT / "tests/logs"
PAIRS = {
    "lm-evaluation-harness": ("harness/full", "harness/w3"),
    "inspect_ai": ("inspect/full.eval", "inspect/w3.eval"),
    "lighteval": ("lighteval/full", "lighteval/w2"),
}
app = compare.typer.Typer()
app.command()(compare.main)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def plain(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rows_of(right: list[object], **others: object) -> list[dict]:
    return [{"id": f"q{i}", "correct": value} | others for i, value in enumerate(right)]


@pytest.mark.parametrize("tool", PAIRS)
def test_logs_of_other_tools(tool: str, tmp_path: Path):
    """Verdicts as the tool itself counted them, which stand in its results; outputs side by side."""
    before, after = (logs.read_log(LOGS / path) for path in PAIRS[tool])
    counted = json.loads((LOGS / "counted.json").read_text())[tool]
    assert [100 * log.rows["right"].mean() for log in (before, after)] == pytest.approx(counted, abs=0.01)
    assert before.rows["id"].nunique() == 24
    assert before.rows["question"].str.contains(r"What is \d+\+\d+\?").all()
    assert before.rows["output"].str.contains("boxed").all()
    run(
        *(LOGS / path for path in PAIRS[tool]),
        "--page",
        page := tmp_path / "page.html",
        "--table",
        tmp_path / "t.parquet",
    )
    [row] = pd.read_parquet(tmp_path / "t.parquet").to_dict("records")
    assert row["drop"] == pytest.approx(counted[1] - counted[0], abs=0.01)
    assert row["low"] < row["drop"] < row["high"]
    assert row["recovery"] == pytest.approx(100 * counted[1] / counted[0], abs=0.01)
    assert page.read_text().count("<details>") == (before.rows["right"] != after.rows["right"]).sum() > 0


def test_by_hand(tmp_path: Path):
    """Two benchmarks, two seeds, three logs; the average weighs benchmarks equally."""
    paths = []
    for name, shares in {"a": (100, 40), "b": (80, 40), "c": (100, 0)}.items():
        rows = []
        for seed in (1, 2):
            rows += rows_of([i < shares[0] for i in range(100)], benchmark="x", seed=seed)
            rows += rows_of([i < shares[1] for i in range(80)], benchmark="y", seed=seed)
        paths.append(plain(tmp_path / f"{name}.jsonl", rows))
    table = compare.tabulate([logs.read_log(path) for path in paths]).set_index(["log", "benchmark"])
    assert table.columns.tolist() == [name for name in compare.SCHEMA.names if name not in ("log", "benchmark")]
    b, c = (table.loc[str(path)] for path in paths[1:])
    assert b["drop"].to_dict() == {"x": -20, "y": 0, "avg": -10}
    assert b[["questions", "seeds"]].to_numpy().tolist() == [[100, 2], [80, 2], [180, 2]]
    assert b.loc["x", ["wins", "losses"]].tolist() == [0, 20]
    assert b.loc["x", "recovery"] == pytest.approx(80)
    assert b.loc["avg", "recovery"] == pytest.approx(100 * (80 + 50) / (100 + 50))
    assert c.loc["x", ["drop", "class"]].tolist() == [0, "lossless"]
    assert (b.loc["x", "class"], b.loc["x", "seed_share"]) == ("risky", 0)  # no answer varies over seeds
    wide = compare.tabulate([logs.read_log(path) for path in paths], {"lossless": 30, "risky": 40})
    assert set(wide.set_index("log").loc[str(paths[1]), "class"]) == {"lossless"}
    assert c.loc["y", "recovery"] == 0
    assert (table["recovery_low"] <= table["recovery"]).all()
    assert (table["recovery"] <= table["recovery_high"]).all()


def test_margins_and_what_would_settle_a_class(tmp_path: Path):
    """With answers that vary over seeds alone; with one seed nothing is said of it."""
    chance = random.Random(0)
    paths = []
    for name in "ab":
        rows = [row for seed in (1, 2) for row in rows_of([chance.random() < 0.5 for _ in range(300)], seed=seed)]
        paths.append(plain(tmp_path / f"{name}.jsonl", rows))
    said = run(*paths)
    assert re.search(r"undetermined +about [\d,]+ seeds *$", said, re.MULTILINE)
    assert "lossless (from -1), fair (-3 to -1), risky (below -3)" in said
    said = run(*paths, "--lossless", "20", "--risky", "30", "--page", page := tmp_path / "page.html")
    assert re.search(r" lossless *$", said, re.MULTILINE)
    for text in (said, page.read_text()):
        assert "lossless (from -20), fair (-30 to -20), risky (below -30)" in text
    assert "error: --lossless 4 --risky 3: margins are positive" in run(*paths, "--lossless", "4")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_table_of_ones_own(tmp_path: Path, suffix: str):
    paths = [plain(tmp_path / f"{name}{suffix}", rows_of([name == "a", True, False])) for name in "ab"]
    assert [logs.read_log(path).rows["right"].tolist() for path in paths] == [[1, 1, 0], [0, 1, 0]]
    said = run(*paths)
    assert "-33.3" in said
    assert "avg" not in said  # there is one benchmark


def test_ours(built: Copy, tmp_path: Path):
    """A file of scores or a suite's folder, with what was generated; the drop is the study's."""
    places = [built.root / f"results/score/tiny-qwen-s/{cell}/arithmetic" for cell in ("none/full", "rtn/w2g32")]
    table = compare.tabulate([logs.read_log(path) for path in places]).set_index("benchmark")
    drops = pd.read_parquet(built.root / "results/report/tiny/drops.parquet")
    expected = drops[(drops["model"] == "tiny-qwen-s") & (drops["scheme"] == "w2g32")].set_index("benchmark")
    names = ["drop", "low", "high", "class", "wins", "losses", "p"]
    pd.testing.assert_frame_equal(table[names], expected.loc[table.index, names])
    one = logs.read_log(places[0] / "addition.parquet").rows
    assert one["output"].str.contains("boxed").all()
    assert logs.read_log(places[0] / "addition.parquet", "correct").rows["right"].mean() >= one["right"].mean()


def test_other_questions_are_refused_with_how_many_are_shared(tmp_path: Path):
    a, b = plain(tmp_path / "a.jsonl", rows_of([1] * 5)), plain(tmp_path / "b.jsonl", rows_of([1] * 3))
    assert "of 5 and 3 questions they share 3" in run(a, b)
    c = plain(tmp_path / "c.jsonl", rows_of([1] * 5, seed=7))
    assert "of 5 and 5 samples (a question with a seed, or an epoch) they share 0" in run(a, c)
    words = [plain(tmp_path / f"w{i}.jsonl", rows_of([1] * 5, question=f"ask {i}")) for i in range(2)]
    assert "asked 5 of 5 questions in other words, the first is all: q0" in run(*words)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a.jsonl", [{"id": "q"}], "a.jsonl has no column 'correct', but id"),
        ("a.csv", rows_of(["maybe"]), "'maybe' is no verdict"),
        ("a.jsonl", rows_of([float("nan")]), "nan is no verdict"),
        ("a.jsonl", rows_of([7]), "7 is no verdict"),
        ("a.jsonl", [{"id": "q", "correct": 1}] * 2, "question q with seed 0 stands twice"),
        ("a.jsonl", [], "has no samples"),
    ],
)
def test_what_is_no_log_is_refused_in_words(tmp_path: Path, name: str, rows: list[dict], message: str):
    said = run(plain(tmp_path / name, rows), plain(tmp_path / "b.jsonl", rows_of([1])))
    assert said.startswith("error: ")
    assert message in said


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.eval", "a.json", "a.txt", "a"])
def test_noise_is_refused_in_words(tmp_path: Path, name: str):
    (path := tmp_path / name).write_bytes(b"\x00\xff not a log")
    said = run(path, path.with_suffix(".csv"))
    assert said.startswith("error: ")
    assert "lm-evaluation-harness" in said
    assert "no such file" in run(tmp_path / "nowhere.csv", path)
    assert "name 2 to 26 logs" in run(path)


def test_several_metrics_are_asked_about(tmp_path: Path):
    file = next((LOGS / "harness/full").rglob("samples_*.jsonl"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    copy = tmp_path / file.name
    copy.write_text("".join(json.dumps(row | {"metrics": ["exact_match", "bleu"], "bleu": 0.5}) + "\n" for row in rows))
    with pytest.raises(UserError, match="has several metrics: name one of bleu, exact_match with --metric"):
        logs.read_log(copy)
    assert logs.read_log(copy, "bleu").rows["right"].unique().tolist() == [0.5]
    other = [row | {"filter": "strict", "exact_match": 0} for row in rows]
    copy.write_text("".join(json.dumps(row) + "\n" for row in rows + other))
    assert logs.read_log(copy, "exact_match,strict").rows["right"].sum() == 0
    shutil.copy(file, tmp_path / "samples_sums_2030-01-01T00-00-00.000000.jsonl")
    with pytest.raises(UserError, match="has sums twice"):
        logs.read_log(tmp_path, "exact_match,strict")


def test_hostile_logs_do_nothing(tmp_path: Path):
    """Markup, formulas with links and controls of terminals are shown; an archive that swells is refused."""
    bad = "<script>alert(1)</script>\x1b[31m \u202e21"
    paths = [
        plain(tmp_path / f"{name}.jsonl", rows_of([name == "a"], question=bad, output=bad, benchmark=bad))
        for name in "ab"
    ]
    said = run(*paths, "--page", page := tmp_path / "page.html")
    assert "\x1b[31m" not in said
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "\u202e" not in html
    with zipfile.ZipFile(tmp_path / "swollen.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        archive.writestr("samples/1.json", b" " * (logs.LARGEST + 1))
    assert "it is no log" in run(tmp_path / "swollen.eval", paths[0])
