"""A key under which equal answers vote together, though they are written differently."""

import re

from scripts.score._clean import clean, without_commas
from scripts.score._numbers import number
from scripts.score._units import split_unit

LONGEST = 200  # characters; longer ones are programs, which are equal where they are written alike
NAME = re.compile(r"^[a-zA-Z](?:_\{?\w+\}?)?\s*=\s*")


def canonical(answer: str) -> str:
    """`36`, `36.0`, `n = 36` and `\\$36` have one key; answers that are no numbers have their text."""
    if len(answer) > LONGEST:
        return answer
    text = NAME.sub("", without_commas(clean(answer)))
    value = number(split_unit(text)[0])
    return str(value[0]) if value else text.replace(" ", "").casefold() or answer
