"""LiveCodeBench: hostile files, the published prompt, the program in an output, and verdicts end to end."""

import base64
import json
import os
import pickle
import re
import subprocess
import sys
import zlib
from copy import deepcopy as copy_of
from pathlib import Path

import pytest

from scripts.manifest import write_manifest
from scripts.questions._livecodebench import pickled_string, read_problems, unpacked
from scripts.questions.livecodebench import question
from scripts.run.errors import UserError
from scripts.score._code import attempt, extract, same_text, same_value
from scripts.score.livecodebench import try_all
from scripts.table import read_rows
from tests.conftest import TINY_STUDY, Copy
from tests.fixtures import ADD, DOUBLE, code_problem, packed
from tests.test_score import sample, write


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder as the hub's, with a problem of each kind, and a manifest beside it."""
    folder = tmp_path / "livecodebench/files"
    folder.mkdir(parents=True)
    plain = code_problem("double", DOUBLE, private_test_cases=json.dumps(DOUBLE[2:]))
    (folder / "test4.jsonl").write_text(json.dumps(plain) + "\n")
    called = code_problem("add", ADD, "add", platform="leetcode", difficulty="hard")
    (folder / "test5.jsonl").write_text(json.dumps(called) + "\n")
    write_manifest(folder, folder.parent / "manifest.json")
    return folder


def test_problems_of_both_kinds_are_read(files: Path):
    double, add = read_problems([files])
    assert (double.function, double.tests) == ("", [(test["input"], test["output"]) for test in DOUBLE])
    assert (add.function, add.tests) == ("add", [(test["input"], test["output"]) for test in ADD])
    assert (add.platform, add.date, add.difficulty) == ("leetcode", "2024-08-03", "hard")


def test_the_digest_holds_every_test(files: Path):
    before = [problem.digest for problem in read_problems([files])]
    path = files / "test5.jsonl"
    path.write_text(json.dumps(code_problem("add", [*ADD[:-1], ADD[-1] | {"output": "[3, 7]"}], "add")))
    after = [problem.digest for problem in read_problems([files])]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_prompts_are_the_published_ones(files: Path):
    double, add = (question(problem) for problem in read_problems([files]))
    task = (
        "You will be given a question (problem specification) and will generate a correct Python program that matches "
        "the specification and passes all tests.\n\nQuestion: "
    )
    assert double["messages"] == [
        {
            "role": "user",
            "content": task + "The problem double.\n\nRead the inputs from stdin solve the problem and write the "
            "answer to stdout (do not directly test on the sample inputs). Enclose your code within delimiters as "
            "follows.```python\n# YOUR CODE HERE\n```\n\n",
        }
    ]
    assert add["messages"][0]["content"] == (
        task + "The problem add.\n\nYou will use the following starter code to write the solution to the problem and "
        "enclose your code within delimiters.```python\nclass Solution:\n    def add(self, n, x):\n        \n```\n\n"
    )
    assert (add["level"], add["subject"]) == ("hard", "leetcode 2024-08-03")


def test_braces_of_a_problem_are_no_placeholders(files: Path):
    (files / "test4.jsonl").write_text(
        json.dumps(code_problem("x", DOUBLE, question_content="{content} {0} {", starter_code="{"))
    )
    asked = question(next(read_problems([files])))["messages"][0]["content"]
    assert "Question: {content} {0} {\n" in asked
    assert "```python\n{\n```" in asked


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch escaped",)


BAD_PACKING = {
    "no base64": ("!!!", "neither JSON nor zlib"),
    "wrong padding": (packed("[]")[:-3], "neither JSON nor zlib"),
    "no zlib": (base64.b64encode(b"plain").decode(), "neither JSON nor zlib"),
    "cut off": (base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode(), "cut off"),
    "a bomb": (base64.b64encode(zlib.compress(bytes(10**7))).decode(), "larger than"),
    "a pickle that runs": (base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode(), "GLOBAL"),
    "a pickled list": (base64.b64encode(zlib.compress(pickle.dumps(["[]"]))).decode(), "EMPTY_LIST"),
    "pickled bytes": (base64.b64encode(zlib.compress(pickle.dumps(b"[]"))).decode(), "BYTES"),
    "no pickle": (base64.b64encode(zlib.compress(b"\xff\xff")).decode(), "opcode"),
    "an empty pickle": (base64.b64encode(zlib.compress(b"\x80\x04.")).decode(), "0 strings"),
    "nothing": ("", "pickle|neither|cut off"),
}


@pytest.mark.parametrize("case", BAD_PACKING)
def test_packed_tests_that_are_none_are_refused(case: str):
    text, words = BAD_PACKING[case]
    with pytest.raises(ValueError, match=words):
        unpacked(text, limit=10**6)


@pytest.mark.parametrize("text", ["[]", "[" + "1" * 10**5 + "]", '["é\N{GRINNING FACE}"]'])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_packed_tests_come_out_as_they_went_in(text: str, protocol: int):
    assert unpacked(packed(text, protocol)) == text
    assert pickled_string(pickle.dumps(text, protocol)) == text


BAD_ROWS = {
    "no JSON": "{",
    "no problem": "[]",
    "a line that is cut": json.dumps(code_problem("x", DOUBLE))[:-40],
    "no line": "",
    "a column less": json.dumps({"question_id": "x"}),
    "a test that is no text": json.dumps(code_problem("x", [{"input": 1, "output": "1"}])),
    "a bomb of lists": json.dumps(code_problem("x", [], private_test_cases=packed("[" + "[]," * 10**6 + "[]]"))),
    "a bomb of lists in a test": json.dumps(
        code_problem("x", [], private_test_cases='[{"input": [' + "[]," * 10**6 + '[]], "output": ""}]')
    ),
    "a bomb of tests": json.dumps(
        code_problem("x", [], private_test_cases=json.dumps([{"input": "", "output": ""}] * 10_001))
    ),
    "a bomb of fields": json.dumps(
        code_problem("x", [], private_test_cases=json.dumps([{str(n): "" for n in range(10**5)}]))
    ),
    "a bomb beside the tests": json.dumps(code_problem("x", DOUBLE) | {"more": [[]] * 10**6}),
    "tests that do not end": json.dumps(code_problem("x", [], private_test_cases="[")),
    "an end too much": json.dumps(code_problem("x", [], private_test_cases=json.dumps(DOUBLE[:1]) + "]")),
    "something behind the tests": json.dumps(code_problem("x", [], private_test_cases=json.dumps(DOUBLE[:1]) + "x")),
    "tests that are none": json.dumps(code_problem("x", [], private_test_cases="[1]")),
    "a function's name that is none": json.dumps(code_problem("x", DOUBLE, "a b")),
    "a bad pickle": json.dumps(code_problem("x", DOUBLE, private_test_cases=BAD_PACKING["a pickle that runs"][0])),
    "nesting": "[" * 10**5,
}


NO_TESTS = {
    "empty lists": {"public_test_cases": "[]", "private_test_cases": "[]"},
    "empty lists, packed": {"public_test_cases": " [ ] ", "private_test_cases": packed("[]")},
}


@pytest.mark.parametrize("case", NO_TESTS)
@pytest.mark.parametrize("function", [None, "add"])
def test_a_problem_without_tests_is_refused_by_name(files: Path, case: str, function: str | None):
    """Where it is asked and, had it come in since, where it is judged."""
    digest = next(iter(read_problems([files]))).digest
    problem = code_problem("abc_301_g", DOUBLE, function, **NO_TESTS[case])
    (files / "test5.jsonl").write_text(json.dumps(problem) + "\n")
    words = r"test5\.jsonl: line 1 .*abc_301_g has no tests.*fetch it anew"
    with pytest.raises(UserError, match=words):
        list(read_problems([files]))
    with pytest.raises(UserError, match=words):
        try_all({digest: {"print(1)"}}, [files], unsafe=True)
    with pytest.raises(UserError, match="without tests"):
        attempt("print(1", function or "", [])


def test_a_problem_with_tests_of_one_kind_is_asked(files: Path):
    for private, public in (("[]", json.dumps(DOUBLE)), (packed(json.dumps(DOUBLE)), "[]")):
        problem = code_problem("x", DOUBLE, private_test_cases=private, public_test_cases=public)
        (files / "test5.jsonl").write_text(json.dumps(problem) + "\n")
        assert [len(problem.tests) for problem in read_problems([files])] == [4, 4]


def test_two_problems_of_one_id_are_refused(files: Path):
    (files / "test5.jsonl").write_text(json.dumps(code_problem("double", ADD, "add")) + "\n")
    with pytest.raises(UserError, match=r"test5\.jsonl: line 1 .*double is there already"):
        list(read_problems([files]))


def test_other_encodings_are_refused(files: Path):
    problem = json.dumps(code_problem("café", DOUBLE), ensure_ascii=False)
    (files / "test5.jsonl").write_bytes(b"\n".join([problem.encode(), problem.encode("latin-1")]))
    with pytest.raises(UserError, match=r"test5\.jsonl: line 2 is not .*UnicodeDecodeError.*0xe9.*fetch it anew"):
        list(read_problems([files]))


def test_an_empty_file_is_refused(files: Path):
    (files / "test5.jsonl").write_text("")
    with pytest.raises(UserError, match=r"test5\.jsonl is empty: delete it and fetch it anew"):
        list(read_problems([files]))


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_line_is_named(files: Path, case: str):
    (files / "test5.jsonl").write_text(json.dumps(code_problem("good", DOUBLE)) + "\n" + BAD_ROWS[case] + "\n")
    with pytest.raises(UserError, match=r"test5\.jsonl: line 2 is not a problem of LiveCodeBench .*fetch it anew"):
        list(read_problems([files]))


def test_a_missing_file_is_named(files: Path):
    (files / "test5.jsonl").unlink()
    with pytest.raises(UserError, match=r"no test5\.jsonl in .*fetch"):
        list(read_problems([files]))


EXTRACTED = {
    "one block": ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)"),
    "the last of several": ("```\nprint(1)\n```\nor\n```py\nprint(2)\nprint(3)\n```", "print(2)\nprint(3)"),
    "a fence within a line": ("so ```python\nprint(1)\n and ``` ends", "print(1)"),
    "not closed": ("```python\nprint(1)\n```\nand\n```python\nprint(2)", "and"),  # as published
    "one fence": ("```python\nprint(1)", None),
    "no fence": ("print(1)", None),
    "empty": ("```\n```", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize("case", EXTRACTED)
def test_the_program_of_an_output(case: str):
    output, program = EXTRACTED[case]
    assert extract(output) == program


SAME_TEXT = [
    ("1\n2\n", "1\n2", True),
    ("  1 \n 2", "1\n2\n\n", True),
    ("1.0 2e0", "1 2", True),
    ("1 2", "1  2", True),
    ("0.1", "0.10", True),
    ("0.3", "0.30000000000000004", False),
    ("50000000000000001", "50000000000000000", False),
    ("yes", "YES", False),
    ("1\n\n2", "1\n2", False),
    ("1", "1\n2", False),
    ("1\n2", "1", False),
    ("1 2", "1", False),
    ("1", "1 2", False),
    ("a  b", "a b", False),
    ("", "1", False),
    ("", "", True),
    ("nan", "nan", True),
    ("NaN", "nan", False),
    ("sNaN", "1", False),
    ("1_0", "10", True),  # as Decimal reads it
    ("1e999999999", "1", False),
    ("1\r\n2\r\n", "1\n2", True),
]


@pytest.mark.parametrize(("output", "expected", "same"), SAME_TEXT)
def test_texts_are_compared_as_published(output: str, expected: str, same: bool):
    assert same_text(output.encode(), expected) is same


SAME_VALUE = [
    ("[1, 2]", "[1,2]", True),
    ("1.0", "1", True),
    ("true", "1", True),
    ('"a"', '"a"', True),
    ("[1, 2]", "[2, 1]", False),
    ("0.30000000000000004", "0.3", False),
    ("NaN", "NaN", False),
    ("", "[]", False),
    ("\0", "[]", False),
    ("[" * 10**5, "[]", False),
    ("[" * 10**4, '"' + "x" * 10**4 + '"', False),
    ("1" * 10**4, '"' + "x" * 10**4 + '"', False),
    ("\\xff", "[]", False),
]


@pytest.mark.parametrize(("output", "expected", "same"), SAME_VALUE)
def test_values_are_compared_as_json(output: str, expected: str, same: bool):
    assert same_value(output.encode(), expected) is same


def test_bytes_that_are_no_text_are_wrong():
    assert not same_value(b'"\xff"', '"\ufffd"')
    assert not same_text(b"\xff\xfe", "1")


def fenced(program: str) -> str:
    return f"```python\n{program}\n```\n"


GOOD = fenced("print(2 * int(input()))")
BAD = fenced("print(3 * int(input()))")
METHOD = fenced("class Solution:\n    def add(self, n, x): return [n + i - 1 for i in x][:1] + [2 * n]")
PROGRAMS = 7  # different ones per question in what follows
# question, output: correct, correct_final, status
OUTPUTS = {
    ("double", f"thought\n</think>\n{GOOD}"): (True, True, "ok"),
    ("double", GOOD): (True, False, "ok"),
    ("double", f"{GOOD}</think>\n{BAD}"): (False, False, "ok"),
    ("double", f"{GOOD}</think>\nno program"): (True, False, "ok"),
    ("double", f"{BAD}</think>\n{GOOD}"): (True, True, "ok"),
    ("double", "</think> no program"): (False, False, "no_answer"),
    ("double", "</think>\n" + fenced("print(")): (False, False, "compile_error"),
    ("double", "</think>\n" + fenced("print(int(input()) * 2 if 1 / (3 - int(input())) else 0)")): (
        False, False, "runtime_error",
    ),
    ("double", "</think>\n" + fenced("x = [1] * 10**10")): (False, False, "memory_limit"),
    ("add", f"</think>\n{METHOD}"): (True, True, "ok"),
    ("add", f"</think>\n{BAD}"): (False, False, "runtime_error"),
}  # fmt: skip


def stage(copy: Copy, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"scripts.{module}.livecodebench", *map(str, arguments)]
    return subprocess.run(command, cwd=copy.root, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.usefixtures("sandbox")
def test_from_files_to_scores(files: Path, copy: Copy):
    questions, samples, scores = (
        Path("results", name, "livecodebench.parquet") for name in ("questions", "samples", "score/m/none/full/s")
    )
    done = stage(copy, "questions", files, "--output", questions)
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["level"]) for row in read_rows(copy.root / questions)] == [
        ("double", "easy"),
        ("add", "hard"),
    ]
    (copy.root / samples).parent.mkdir()
    write(copy.root / samples, [sample(benchmark="livecodebench", id=name, output=text) for name, text in OUTPUTS])
    options = ["--questions", questions, "--samples", samples, "--output", scores, "--settings"]
    for unsafe in (False, True):
        done = stage(copy, "score", files, *options, json.dumps({"unsafe_code": unsafe}))
        assert done.returncode == 0, done.stderr
        assert ("without a sandbox" in done.stderr) is unsafe
        rows = read_rows(copy.root / scores)
        assert [(row["correct"], row["correct_final"], row["status"]) for row in rows] == list(OUTPUTS.values())
        assert {row["sandboxed"] for row in rows} == {not unsafe}
        assert f"livecodebench: {PROGRAMS} of {PROGRAMS} programs" in done.stdout
    (files / "test5.jsonl").write_text(json.dumps(code_problem("add", ADD[:3], "add")))
    write_manifest(files, files.parent / "manifest.json")
    done = stage(copy, "score", files, *options, json.dumps({"unsafe_code": False}))
    assert done.returncode == 1
    assert re.search(r"error: .*tests with the digest \w{64} are not there; make the questions anew", done.stderr)


def test_only_scores_of_programs_depend_on_unsafe_code(copy: Copy):
    config = copy_of(TINY_STUDY)
    config["suites"]["arithmetic"]["benchmarks"] = ["addition", "livecodebench"]
    commands = {}
    for unsafe in (False, True):
        copy.write_config(config | {"unsafe_code": unsafe})
        done = copy.snakemake("--dry-run", "--printshellcmds", "--cores", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        for benchmark in ("addition", "livecodebench"):
            commands[benchmark, unsafe] = set(re.findall(rf"python -m scripts\.score\.{benchmark} .*", done.stdout))
    assert commands["addition", False] == commands["addition", True]
    assert not any("--settings" in command for command in commands["addition", True])
    for unsafe in (False, True):
        for command in commands["livecodebench", unsafe]:
            assert f"""--settings '{json.dumps({"unsafe_code": unsafe})}'""" in command
    assert all(commands.values())
