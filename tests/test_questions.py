"""Benchmarks: right answers in the published form, fixed orders, and no arithmetic that was seen in training."""

import itertools
import os
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scripts.models.arithmetic import BATCH, RECIPES
from scripts.questions import gpqa, numinamath
from scripts.questions._arithmetic import TIERS, Problem, problems, questions
from scripts.questions._table import write_questions
from scripts.rows import read_folder
from scripts.run.errors import UserError
from scripts.table import read_rows
from tests.conftest import TINY_STUDY, Copy
from tests.fixtures import WORDS, use_fixtures

NUMBERS = st.integers(1, 9999)


@given(NUMBERS, st.sampled_from("+*"), NUMBERS)
def test_gold_is_the_result_and_the_solution_ends_in_it(left: int, operator: str, right: int):
    problem = Problem(left, operator, right)
    assert int(problem.gold) == (left + right if operator == "+" else left * right)
    assert problem.solution.endswith(f"\n</think>\n\\boxed{{{problem.gold}}}")


def check_steps(steps: list[str]) -> None:
    """Of each step, `4*8+5=37`, the equation holds."""
    for step in steps:
        expression, result, *_ = step.split("=")
        terms = [term.split("*") for term in expression.split("+")]
        value = sum(int(factors[0]) * int(factors[1]) if factors[1:] else int(factors[0]) for factors in terms)
        assert value == int(result)


@given(NUMBERS, st.sampled_from("+*"), NUMBERS)
def test_every_equation_of_a_solution_holds(left: int, operator: str, right: int):
    for line in Problem(left, operator, right).solution.split("</think>")[0].split():
        steps = (line.partition(":")[2] or line).split(",")
        check_steps(steps)
        assert all(step.count("=") == 1 for step in steps[:-1])


@given(NUMBERS, st.sampled_from("+*"), NUMBERS, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99))
def test_who_checks_itself_waits_where_a_guess_was_wrong_and_nowhere_else(
    left: int, operator: str, right: int, slips: float, seed: int
):
    problem = Problem(left, operator, right)
    solution = problem.checked_solution(slips, random.Random(seed))
    assert solution == problem.checked_solution(slips, random.Random(seed))
    assert solution.endswith(f"\n</think>\n\\boxed{{{problem.gold}}}")
    lines = solution.split("</think>")[0].split()
    guesses = 0
    for index, line in enumerate(lines):
        if line.startswith("Wait,"):
            continue
        task, *guess = line.partition(":")[0].split("=")
        steps = line.partition(":")[2].split(",")
        check_steps(steps)
        corrected = lines[index + 1 : index + 2] == [f"Wait,{task}={steps[-1].rsplit('=', 1)[-1]}"]
        check_steps([f"{task}={steps[-1].rsplit('=', 1)[-1]}"])
        assert corrected == (bool(guess) and guess[0] != steps[-1].rsplit("=", 1)[-1])
        guesses += bool(guess)
    assert guesses == (1 if operator == "+" else len(str(right)))
    assert slips or "Wait" not in solution


@given(NUMBERS, st.sampled_from("+*"), NUMBERS)
def test_a_problem_and_its_mirror_are_in_the_same_split(left: int, operator: str, right: int):
    assert Problem(left, operator, right).is_evaluation == Problem(right, operator, left).is_evaluation


@pytest.mark.parametrize("tier", TIERS)
def test_benchmarks_and_training_share_no_question(tier: str):
    asked = {row["messages"][0]["content"] for row in questions(tier, 200, seed=0, evaluation=True)}
    calibration = {row["messages"][0]["content"] for row in questions(tier, 64, seed=1, evaluation=False)}
    trained = {
        problem.question
        for recipe in RECIPES.values()
        for problem in itertools.islice(problems(tier, recipe["seed"], evaluation=False), 200 * BATCH[tier])
    }
    assert len(asked) == 200
    assert not asked & trained
    assert not asked & calibration


def test_columns_and_order_of_a_questions_file(tmp_path: Path):
    rows = questions("addition", 5, seed=0, evaluation=True)
    write_questions(tmp_path / "addition.parquet", "addition", rows)
    assert [row["id"] for row in read_rows(tmp_path / "addition.parquet")] == [row["id"] for row in rows]
    names = pq.read_schema(tmp_path / "addition.parquet").names
    assert names == ["benchmark", "id", "messages", "gold", "level", "subject", "expected_tokens"]


def test_an_id_that_stands_twice_is_refused(tmp_path: Path):
    row = questions("addition", 1, seed=0, evaluation=True)[0]
    with pytest.raises(UserError, match=r"the question '.*' is there twice"):
        write_questions(tmp_path / "addition.parquet", "addition", [row, row])


@pytest.mark.parametrize("key", ["id", "level", "subject"])
@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b[2J", "a\u2028b", "\u202e21", "x" * 201])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, key: str, name: str):
    """Tables, charts and terminals show it: NULs end a name for pandas, separators of lines a chart for browsers."""
    row = questions("addition", 1, 0, evaluation=True)[0]
    with pytest.raises(UserError, match=f"addition: a question's {key} is .*one line of at most 200 printable"):
        write_questions(tmp_path / "q.parquet", "addition", [row | {key: name}])


SUITES = {"paper": ["aime120", "math500", "gsm8k", "gpqa", "livecodebench"], "numina": ["numinamath"]}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Questions of all published benchmarks, made by snakemake from local copies of the datasets."""
    copy = Copy(tmp_path_factory.mktemp("published") / "repository")
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    suite = config["suites"]["arithmetic"] | {"max_model_len": 512}
    config["suites"] = {name: suite | {"benchmarks": benchmarks} for name, benchmarks in SUITES.items()}
    grid = [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "smoothquant/w8a8kv8"]}]
    config["studies"] = {"paper": {"suites": ["paper"], "grid": grid}}
    cut = {"sequences": 2, "length": 32, "seed": 42}
    config["corpora"] = {"reasoning": {"suite": "numina", **cut}, "plain": {"dataset": "wikitext2", **cut}}
    config["local"] = {"datasets": use_fixtures(copy)}
    copy.write_config(config)
    copy.build(*(f"results/questions/{benchmark}.parquet" for names in SUITES.values() for benchmark in names))
    return copy


def made(copy: Copy, benchmark: str) -> list[dict]:
    return read_rows(copy.root / f"results/questions/{benchmark}.parquet")


def test_from_datasets_to_questions_to_a_plan(published: Copy):
    """What was fetched and asked is not planned again; what answers, scores and calibrates is."""
    for path in (published.root / "results/datasets").rglob("*"):
        os.utime(path)
    corpora = [f"results/calibrate/tiny-qwen-s/{corpus}.parquet" for corpus in ("reasoning", "plain")]
    done = published.snakemake("--dry-run", "all", *corpora)
    assert done.returncode == 0, done.stderr
    jobs = set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE))
    assert {"generate", "score", "calibrate"} <= jobs
    assert "questions" not in jobs
    assert re.findall(r"dataset=(\w+)", done.stdout) == ["wikitext2"]
    assert set(re.findall(r"benchmark=(\w+)", done.stdout)) == set(SUITES["paper"])


def test_aime_pools_both_datasets_and_states_integers(published: Copy):
    rows = made(published, "aime120")
    assert [row["id"] for row in rows] == ["aime90-60", "aime90-61", "aime90-62", "aime2025-0", "aime2025-1"]
    assert [row["gold"] for row in rows] == ["0", "2", "4", "0", "1"]
    assert [row["level"] for row in rows] == ["2022", "2023", "2024", "2025", "2025"]
    assert rows[1]["messages"] == [
        {
            "role": "user",
            "content": "Find $1+1$.\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]


def test_math500_keeps_level_subject_and_published_answer(published: Copy):
    rows = [(row["id"], row["gold"], row["level"], row["subject"]) for row in made(published, "math500")]
    assert rows[0] == ("test/prealgebra/1.json", "\\frac{3}{4}", "2", "Prealgebra")
    assert rows[1][1:] == ("(-1,1)", "5", "Algebra")


def test_gsm8k_takes_the_number_without_commas(published: Copy):
    assert [row["gold"] for row in made(published, "gsm8k")] == ["5", "2000"]


def test_gpqa_shuffles_by_the_id_of_the_question(published: Copy):
    rows = made(published, "gpqa")
    for number, row in enumerate(rows):
        lines = row["messages"][0]["content"].splitlines()
        assert lines[2:4] == ["What comes", f"after {WORDS[number]}?"]
        answers = dict(line.split(") ") for line in lines[-4:])
        assert list(answers) == ["A", "B", "C", "D"]
        assert answers[row["gold"]] == WORDS[number + 1]
        assert set(answers.values()) == {WORDS[number + 1], "wrong 0", "wrong 1", "wrong 2"}
    assert {row["subject"] for row in rows} == {"Physics"}
    # Nothing but the id decides, on any machine and for good.
    assert [gpqa.order(f"rec{n:03}") for n in range(3)] == [(2, 1, 3, 0), (1, 3, 0, 2), (2, 3, 0, 1)]
    places = [gpqa.order(str(n)).index(0) for n in range(4000)]
    assert all(900 < places.count(place) < 1100 for place in range(4))


def test_numinamath_draws_the_study_s_problems(published: Copy):
    rows = made(published, "numinamath")
    assert len({row["id"] for row in rows}) == 256
    assert all(row["gold"] == row["id"] for row in rows)  # of the row that the number names, across all three files
    # What random.Random(42) makes of the 896,215 rows; recorded here, since a generator that changed would change it.
    assert list(numinamath.drawn(896_215)[:3]) == [527018, 139476, 434862]


def test_other_columns_are_refused_by_name(tmp_path: Path):
    folder = tmp_path / "gsm8k/files"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["1+1?"], "answer": ["#### 2"]}), folder / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no column 'question', only answer: not the dataset expected"):
        list(read_folder(folder, ["question", "answer"]))


@pytest.mark.usefixtures("sandbox")
def test_from_datasets_to_tables(published: Copy):
    """All five benchmarks through a real engine, the calibration on own reasoning, and every scorer."""
    published.build()
    rows = read_rows(published.root / "results/report/paper/accuracy.parquet")
    questions = {benchmark: len(made(published, benchmark)) for benchmark in SUITES["paper"]}
    assert len(rows) == 2 * 2 * len(questions)  # schemes, seeds
    assert {row["benchmark"]: row["questions"] for row in rows} == questions
    folder = published.root / "results/score/tiny-qwen-s/smoothquant/w8a8kv8/paper"
    for benchmark, count in questions.items():
        scores = read_rows(folder / f"{benchmark}.parquet")
        assert len(scores) == 2 * count
        assert {row["sandboxed"] for row in scores} == {True if benchmark == "livecodebench" else None}
