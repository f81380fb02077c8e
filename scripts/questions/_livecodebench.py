"""LiveCodeBench's files: problems with their tests, read one at a time, for the tests of all are 2 GB.

Source: huggingface.co/datasets/livecodebench/code_generation_lite, files as on the hub. Whoever fills them could put
anything in: what they hold packed is unpacked within a limit, and a pickle is looked at, never loaded.
"""

import base64
import binascii
import hashlib
import json
import pickletools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.run.errors import UserError

# The subset v4_v5 of the hub's loading script: contests from August 2024 to February 2025, 268 problems.
FILES = ("test4.jsonl", "test5.jsonl")
UNPACKED_LIMIT = 1 << 30  # bytes of one problem's private tests
TESTS_LIMIT = 10_000  # of one problem
# Problems and tests of the published form, all of whose fields are texts: other JSON may become 27 times its size in
# memory.
TEXT = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
FIELDS = rf"\{{(?:\s*+{TEXT}\s*+:\s*+{TEXT}\s*+,?+){{1,30}}+\}}"
TEST = re.compile(rf"\s*+({FIELDS})\s*+([,\]])", re.DOTALL)
PROBLEM = re.compile(rf"\s*+{FIELDS}\s*+", re.DOTALL)
STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
AROUND_A_STRING = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "STOP"}


@dataclass(frozen=True)
class Problem:
    """`function` is what the tests call, "" where they run the program as a script; `tests` are (input, output)."""

    id: str
    content: str
    starter_code: str
    difficulty: str
    platform: str
    date: str  # of the contest, as in 2024-08-03
    function: str
    tests: list[tuple[str, str]]

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON of the function's name and of each test; equal tests, equal digest."""
        digest = hashlib.sha256(json.dumps(self.function).encode())
        for test in self.tests:
            digest.update(json.dumps(test).encode())
        return digest.hexdigest()


def read_problems(folders: list[Path]) -> Iterator[Problem]:
    """The problems in the order of the files.

    Raises:
        UserError: a file is missing, a line is not a problem of the published form, a problem has no tests, which every
            program would pass, or two have the same id.
    """
    seen: set[str] = set()
    for name in FILES:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise UserError(
                f"no {name} in {', '.join(map(str, folders))}: fetch livecodebench/code_generation_lite anew"
            )
        number = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    text = line.decode()
                    if not PROBLEM.fullmatch(text):
                        raise ValueError("no object whose fields are texts")
                    problem = _problem(json.loads(text))
                    if problem.id in seen:
                        raise ValueError(f"{problem.id} is there already")
                    seen.add(problem.id)
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    raise UserError(
                        f"{path}: line {number} is not a problem of LiveCodeBench ({type(error).__name__}: {error}): "
                        "delete the file and fetch it anew"
                    ) from None
                yield problem
        if not number:
            raise UserError(f"{path} is empty: delete it and fetch it anew")


def _problem(row: dict) -> Problem:
    tests = [*_tests(row["public_test_cases"]), *_tests(unpacked(row["private_test_cases"]))]
    problem = Problem(
        id=row["question_id"],
        content=row["question_content"],
        starter_code=row["starter_code"],
        difficulty=row["difficulty"],
        platform=row["platform"],
        date=row["contest_date"][:10],
        function=json.loads(row["metadata"]).get("func_name") or "",
        tests=tests,
    )
    if not problem.tests:
        raise ValueError(f"{problem.id} has no tests")
    if problem.function and not problem.function.isidentifier():
        raise ValueError(f"func_name {problem.function!r}")
    return problem


def _tests(text: str) -> Iterator[tuple[str, str]]:
    """Input and output of each test of a JSON list, read one at a time.

    Raises:
        ValueError: it is no list of tests, or a list of too many.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"{text[:20]!r} where a list of tests is expected")
    place, more, number = 1, bool(text[1:-1].strip()), 0
    while more:
        if not (found := TEST.match(text, place)):
            raise ValueError(f"test {number + 1} is none: {text[place : place + 60]!r}")
        test = json.loads(found[1])
        yield test["input"], test["output"]
        place, more, number = found.end(), found[2] == ",", number + 1
        if number > TESTS_LIMIT:
            raise ValueError(f"more than {TESTS_LIMIT} tests")
    if number and place < len(text):
        raise ValueError(f"{text[place : place + 20]!r} behind the tests")


def unpacked(text: str, limit: int = UNPACKED_LIMIT) -> str:
    """JSON as it stands, or as base64 of zlib of a pickled string.

    Raises:
        ValueError: it is neither, or larger than `limit`.
    """
    if text.startswith("["):
        return text
    try:
        stream = zlib.decompressobj()
        pickled = stream.decompress(base64.b64decode(text, validate=True), limit)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private tests are neither JSON nor zlib in base64: {error}") from None
    if not stream.eof:
        raise ValueError(f"private tests are cut off, or larger than {limit} bytes when unpacked")
    return pickled_string(pickled)


def pickled_string(pickled: bytes) -> str:
    """The one string that a pickle holds, read without loading it.

    Raises:
        ValueError: the pickle holds anything else.
    """
    found = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in STRINGS:
            found.append(argument)
        elif opcode.name not in AROUND_A_STRING:
            raise ValueError(f"a pickle with {opcode.name}, where one string is expected")
    if len(found) != 1:
        raise ValueError(f"a pickle with {len(found)} strings, where one is expected")
    return found[0]
