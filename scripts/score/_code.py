"""Programs that a model wrote: finding them in an output, and judging what they print or return."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import zip_longest

from scripts.run.errors import UserError
from scripts.score._sandbox import LostError, MachineFullError, Sandbox

WORD = re.compile(r"\S+")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """`status` is ok where every output could be compared, else why one could not (see `Outcome`).

    It is error where the machine had no process for the program, and nothing is known of it.
    """

    passed: bool
    status: str


def extract(output: str) -> str | None:
    """What stands between the last two lines with a fence, as LiveCodeBench's `extract_code` has it; None: nothing."""
    lines = output.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    program = "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) >= 2 else ""
    return program or None


def attempt(source: str, function: str, tests: list[tuple[str, str]], seconds: int = 6, unsafe: bool = False) -> Trial:
    """Run a program on the inputs of (input, right output) pairs, up to the first that it fails.

    6 seconds are the published limit for each test.

    Raises:
        UserError: there are no tests, which every program would pass.
    """
    if not tests:
        raise UserError("a problem without tests, which every program would pass: make the questions anew")
    try:
        try:
            return _run(source, function, tests, seconds, unsafe)
        except LostError as error:
            log.warning("a program is run once more: %s", error)
            return _run(source, function, tests, seconds, unsafe)
    except MachineFullError as error:
        log.warning("a program was not judged, which counts as wrong (status error): %s", error)
        return Trial(False, "error")


def _run(source: str, function: str, tests: list[tuple[str, str]], seconds: int, unsafe: bool) -> Trial:
    same = same_value if function else same_text
    with Sandbox(source, function, seconds, unsafe) as sandbox:
        for given, expected in tests:
            outcome = sandbox.run(given.encode(errors="surrogatepass"))
            if outcome.status != "ok" or not same(outcome.output, expected):
                return Trial(False, outcome.status)
    return Trial(True, "ok")


def same_value(output: bytes, expected: str) -> bool:
    """Whether two JSON texts hold equal values; what a function returns as a tuple is a list there."""
    # No number or string of an equal value is longer by more, in JSON as Python writes it: so parsing stays small.
    if len(output) > 24 * len(expected) + 24:
        return False
    try:
        # Decimals of any length are read at once, and equal whatever number of JSON has their value.
        return json.loads(output, parse_int=Decimal) == json.loads(expected, parse_int=Decimal)
    except (ValueError, RecursionError):
        return False


def same_text(output: bytes, expected: str) -> bool:
    """Whether two texts have equal lines, as LiveCodeBench compares them.

    Space around the text and around each line does not count; lines that differ are equal as decimal numbers.
    """
    # Line by line and word by word: a flood of either costs no memory beyond its own.
    return all(
        a is not None and b is not None and (a == b or _same_numbers(a, b))
        for a, b in zip_longest(_lines(output.decode(errors="replace")), _lines(expected))
    )


def _lines(text: str) -> Iterator[str]:
    text = text.strip()
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].strip()
        start = end + 1
    yield text[start:].strip()


def _same_numbers(a: str, b: str) -> bool:
    try:
        return all(
            x is not None and y is not None and Decimal(x[0]) == Decimal(y[0])
            for x, y in zip_longest(WORD.finditer(a), WORD.finditer(b))
        )
    except InvalidOperation:  # a word that is no number, or a signalling NaN
        return False
