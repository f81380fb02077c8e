"""Published data as somebody saved it last: read as it is, or refused with the file, the row and a cure."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.questions import aime120, gpqa, gsm8k, math500
from scripts.rows import count_rows, read_folder
from scripts.run.errors import UserError
from tests.fixtures import FILES, write_dataset

GOLDS = {
    "#### 18": "18", "#### $18": "18", "#### 18.": "18", "#### $18.": "18", "####18": "18", "#### €1,800": "1800",
    "#### 2,000,000": "2000000", "#### -5": "-5", "#### -$5": "-5", "#### $-5": "-5", "#### 18%": "18",
    "#### 0.5": "0.5", "#### $1,234.50": "1234.50", "#### 0": "0", "first #### 3\n#### 4\n": "4",
}  # fmt: skip
NO_GOLDS = [
    "#### ", "####", "5", "", "#### .", "#### $", "#### five", "#### 1,8", "#### 1e3", "#### 12 or 13", "#### --5",
    "#### 3 4", "#### 1,00,000", "#### 18 apples", "#### 5\n####", "#### nan", "#### ٣",
]  # fmt: skip


@pytest.mark.parametrize("answer", GOLDS)
def test_gsm8k_takes_the_number(answer: str):
    assert gsm8k.gold(f"2+3=<<2+3=5>>5\n{answer}") == GOLDS[answer]


@pytest.mark.parametrize("answer", NO_GOLDS)
def test_gsm8k_refuses_what_is_no_number(answer: str):
    with pytest.raises(UserError, match=r"GSM8K 17: .*####.*in the answer"):
        gsm8k.gold(answer, "17")


INTEGERS = {
    "33": "33", "033": "33", "0": "0", "000": "0", "999": "999", "$33$": "33", "$$33$$": "33", " $ 033 $ ": "33",
    "\\(33\\)": "33", "\\boxed{33}": "33", "$\\boxed{033}$": "33", "33.": "33", "33.0": "33", "336^\\circ": "336",
    "$336^{\\circ}$": "336", "336°": "336", "0" * 5000: "0",
}  # fmt: skip
NO_INTEGERS = ["1,024", "1,000", "1000", "1e2", "$1e2$", "-3", "33.5", "", "$$", "nan", "None", "3 4", "12 or 13",
               "2^{10}", "1/2", "$33", "33m", "x=33", "1_0", "٣", "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("answer", INTEGERS)
def test_aime_takes_the_integer(answer: str):
    assert aime120.integer(answer) == INTEGERS[answer]


@pytest.mark.parametrize("answer", NO_INTEGERS)
def test_aime_refuses_what_is_no_answer(answer: str):
    with pytest.raises(UserError, match=r"AIME aime90-60: the answer .* is no integer from 0 to 999.*: correct it"):
        aime120.integer(answer, "aime90-60")


def answers(folder: Path) -> list[str]:
    return [row["gold"] for row in aime120.questions(folder)]


@pytest.mark.parametrize("answer", ["$33$", "033", 33, 33.0])
def test_a_number_may_be_one_in_the_file(tmp_path: Path, answer: object):
    folder = put(tmp_path, "a.jsonl", lines({"id": 1, "problem": "Find $x$.", "answer": answer}))
    assert answers(folder) == ["33"]


GPQA = ["Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
ROW = ["r", 'Which, of\n"these"?', "naïve", "b", "c", "d"]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """A folder of a dataset that holds one file."""
    path = folder / "aime90/files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path.parent


def table(*rows: list[str], header: list[str] = GPQA, **options: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, **options).writerows([header, *rows])
    return stream.getvalue()


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def numbered(*names: str) -> list[list[str]]:
    return [[name, *ROW[1:]] for name in names]


READ = {
    "as it is": table(*numbered("a", "b")),
    "with a byte order mark": "\ufeff" + table(*numbered("a", "b")),
    "lines that end in LF": table(*numbered("a", "b"), lineterminator="\n"),
    "lines that end in CR": table(*numbered("a", "b"), lineterminator="\r").replace("of\n", "of\r"),
    "empty lines": table(*numbered("a", "b")).replace("r\n", "r\n") + "\r\n\r\n",
    "all quoted": table(*numbered("a", "b"), quoting=csv.QUOTE_ALL),
    "braces": table(["a", "{question} {0} {", *ROW[2:]], *numbered("b")),
    "a column more": table(*[[*row, ""] for row in numbered("a", "b")], header=[*GPQA, "Canary"]),
    "a long field": table(["a", "x" * 131_072, *ROW[2:]], *numbered("b")),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_csv_that_others_save_is_read(tmp_path: Path, case: str):
    folder = put(tmp_path, "gpqa_diamond.csv", READ[case])
    rows = [gpqa.question(row) for row in read_folder(folder, GPQA, unique="Record ID")]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert "naïve" in rows[1]["messages"][0]["content"]
    assert count_rows(folder / "gpqa_diamond.csv") == 2


BAD_CSV = {
    "Latin-1": (table(*numbered("a")).encode("latin-1"), "line 3: byte 0xef at .* is no UTF-8: save the file as UTF-8"),
    "Latin-1, far behind": (
        (table(*numbered(*map(str, range(3000)))) + "\xe9").encode("latin-1").replace(b"\xef", b"i"),
        "line 6002: byte 0xe9 at 1 is no UTF-8: save",
    ),
    "Windows-1252": (table(["a", "it’s", *ROW[2:]]).encode("cp1252"), "line 2: byte 0x92 at .* save the file as UTF-8"),
    "UTF-16": (table(*numbered("a")).encode("utf-16"), "line 1: byte 0xff at 1 is no UTF-8: save"),
    "a field too long": (
        table(*numbered("a"), ["b", "x" * 131_073, *ROW[2:]]), "row 2 below the header.*131072.*quote",
    ),
    "a quote that is not closed": (
        table(*numbered("a")) + 'b,"' + "x" * 200_000, "row 2 below the header, read up to line .*: no CSV.*quote",
    ),
    "a header too long": ("x" * 200_000, "row 1 below the header.*no CSV"),
    "a short row": (
        table(*numbered("a"), ["b", "Q?", "x"], *numbered("c")), "row 2 below the header, which .*line 4: 3 fi",
    ),
    "a short last row": (table(*numbered("a", "b"))[:-4], "row 2 below the header.*: 5 fields, where the header has 6"),
    "a long row": (
        table(*numbered("a"), ["b", *ROW]), "row 2 below the header.*: 7 fields, where the header has 6: .*comma",
    ),
    "a missing column": (
        table(ROW[:-1], header=GPQA[:-1]), "no column 'Incorrect Answer 3', only Record ID, .*expected",
    ),
    "semicolons": (
        table(*numbered("a"), delimiter=";"), "fields, where the header has|no column 'Record ID', only Record",
    ),
    "no header": (table(header=ROW), "no rows"),
    "a header alone": (table(), "no rows: take the file of the stated revision"),
    "nothing": ("", "no rows: take the file of the stated revision"),
    "empty lines alone": ("\n\n", "no rows: take the file"),
    "an id that stands twice": (
        table(*numbered("a", "b", "a")), "row 3 below.*: 'Record ID' is 'a', as in .*row 1 below .*: correct",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_is_refused_in_words(tmp_path: Path, case: str):
    content, words = BAD_CSV[case]
    folder = put(tmp_path, "gpqa_diamond.csv", content)
    with pytest.raises(UserError, match=rf"(?s)gpqa_diamond\.csv[:,] .*?{words}") as raised:
        list(read_folder(folder, GPQA, unique="Record ID"))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", GPQA[1:])
def test_an_empty_field_is_refused(name: str):
    row = dict(zip(GPQA, ROW, strict=True)) | {name: " \n"}
    with pytest.raises(UserError, match=f"GPQA r: '{name}' is empty"):
        gpqa.question(row)


@pytest.mark.parametrize("name", ["problem", "answer"])
def test_an_empty_problem_or_answer_is_refused(name: str):
    row = {"unique_id": "test/algebra/2.json", "problem": "Find $x$.", "answer": "1", "level": 5, "subject": "Algebra"}
    assert math500.question(row)["gold"] == "1"
    with pytest.raises(UserError, match=f"MATH-500 test/algebra/2.json: '{name}' is empty"):
        math500.question(row | {name: " "})


GOOD = {"id": 1, "problem": "Find $x$.", "answer": "33"}
BAD_LINES = {
    "a broken line": (lines(GOOD) + '{"id": 2, "problem": }\n', "line 2: no JSON .*: correct it"),
    "a line that is cut": (lines(GOOD, GOOD | {"id": 2})[:-9], "line 2: no JSON"),
    "a line behind an empty one": (lines(GOOD) + "\n\n{", "line 4: no JSON"),
    "two rows in a line": (lines(GOOD)[:-1] * 2, "line 1: no JSON .*Extra data"),
    "a list": (lines(GOOD, [1]), r"line 2: \[1\] is no JSON object with columns"),
    "null": (lines(GOOD, None), "line 2: null is no JSON object"),
    "a whole file as a list": (json.dumps([GOOD]), "line 1: .* is no JSON object"),
    "an indented file": (json.dumps([GOOD], indent=1), "line 1: no JSON"),
    "nesting": ("[" * 10**5, "line 1: no JSON"),
    "a column less in one line": (
        lines(GOOD, {"id": 2, "answer": "3"}), r"no column 'problem', only id, answer.*\(line 2\)",
    ),
    "no column": (lines({}), "no column 'problem', only nothing"),
    "a number for text": (lines(GOOD | {"problem": 7}), "line 1: 'problem' is 7, where text is expected"),
    "null for text": (lines(GOOD | {"problem": None}), "line 1: 'problem' is None, where text is expected"),
    "a list for text": (lines(GOOD | {"problem": ["x" * 999]}), "line 1: 'problem' is .*, where text is expected"),
    "null for a number": (
        lines(GOOD, GOOD | {"id": 2, "answer": None}), "line 2: 'answer' is None, where text or a number",
    ),
    "true for a number": (lines(GOOD | {"answer": True}), "line 1: 'answer' is True, where text or a number"),
    "not a number": (lines(GOOD | {"answer": float("nan")}), "line 1: 'answer' is nan, where text or a number"),
    "an id that stands twice": (lines(GOOD, GOOD | {"id": "1"}), "line 2: 'id' is '1', as in .*a.jsonl, line 1"),
    "Latin-1": (json.dumps(GOOD | {"problem": "é"}, ensure_ascii=False).encode("latin-1"), "line 1: byte 0xe9"),
    "nothing": ("", "no rows"),
    "compressed": (gzip.compress(lines(GOOD).encode()), "line 1: byte 0x8b at 2 is no UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_are_refused_in_words(tmp_path: Path, case: str):
    content, words = BAD_LINES[case]
    folder = put(tmp_path, "a.jsonl", content)
    with pytest.raises(UserError, match=rf"a\.jsonl[:,] .*?{words}") as raised:
        aime120.questions(folder)
    assert len(str(raised.value)) < 600


def parquet(**columns: list) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


BAD_PARQUET = {
    "nothing": (b"", "damaged or cut off"),
    "cut off": (parquet(id=[1], problem=["x"], answer=["1"])[:-20], "damaged or cut off"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n" * 3, "damaged or cut off.*delete it"),
    "no rows": (parquet(id=[], problem=[], answer=[]), "no rows"),
    "null": (parquet(id=[1, 2], problem=["x", None], answer=["1", "2"]), "row 2: 'problem' is None, where text"),
    "a missing column": (parquet(id=[1], answer=["1"]), "no column 'problem', only id, answer"),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_bad_parquet_is_refused_in_words(tmp_path: Path, case: str):
    content, words = BAD_PARQUET[case]
    with pytest.raises(UserError, match=rf"a\.parquet[:,] .*{words}"):
        aime120.questions(put(tmp_path, "a.parquet", content))


def test_bad_pages_of_parquet_are_refused(tmp_path: Path):
    content = bytearray(parquet(id=[*range(100)], problem=[f"{n} " * 99 for n in range(100)], answer=["1"] * 100))
    content[4:3000] = bytes(2996)
    with pytest.raises(UserError, match=r"a\.parquet: damaged or cut off behind row 0"):
        aime120.questions(put(tmp_path, "a.parquet", bytes(content)))


def test_bad_compression_is_refused(tmp_path: Path):
    content = pa.compress(lines(GOOD).encode(), codec="zstd", asbytes=True)
    assert answers(put(tmp_path, "a.jsonl.zst", content)) == ["33"]
    for bad in (content[:-5], lines(GOOD).encode()):
        folder = put(tmp_path, "a.jsonl.zst", bad)
        with pytest.raises(UserError, match=r"a\.jsonl\.zst: damaged or cut off"):
            list(read_folder(folder, ["problem"]))
        with pytest.raises(UserError, match=r"a\.jsonl\.zst: damaged or cut off"):
            count_rows(folder / "a.jsonl.zst")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "é\n1".encode("latin-1")), ("a.jsonl", b"\xff"), ("a.parquet", b"")]
)
def test_rows_that_cannot_be_counted_are_refused(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(UserError, match=name):
        count_rows(put(tmp_path, name, content) / name)


def test_a_folder_without_files_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"files: no files in it"):
        aime120.questions(put(tmp_path, ".snakemake_timestamp", ""))


STAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "math500": (lambda folder: list(read_folder(folder, math500.COLUMNS, numbers=["level"])), "test.jsonl"),
    "numinamath": (
        lambda folder: list(read_folder(folder, ["problem"], optional=["answer"])),
        "data/train-00000-of-00003.parquet",
    ),
    "gsm8k": (lambda folder: list(read_folder(folder, ["question", "answer"])), "main/test-00000-of-00001.parquet"),
}


@pytest.mark.parametrize("dataset", STAGES)
def test_what_is_published_is_read(tmp_path: Path, dataset: str):
    read, name = STAGES[dataset]
    write_dataset(dataset, tmp_path / dataset)
    assert len(read(tmp_path / dataset)) == sum(map(len, FILES[dataset].values()))
    (tmp_path / dataset / name).write_bytes(b"")
    with pytest.raises(UserError, match=name):
        read(tmp_path / dataset)
