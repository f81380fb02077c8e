"""Numbers as they are written, exactly: decimals, fractions, mixed numbers, powers of ten; digits in a base."""

import re
from fractions import Fraction

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
INTEGER = r"(?:\d+|\{\s*\d+\s*\})"
NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?:(?P<whole>\d+)\s*)??(?:\\frac\s*(?P<a>{INTEGER})\s*(?P<b>{INTEGER})|(?P<c>\d+)\s*/\s*(?P<d>\d+))"
    rf"|(?P<decimal>{_DECIMAL})(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*(?P<e>[+-]?\d+)\s*\}}|(?P<f>\d)))?)"
    r"\s*(?P<percent>\\?%|\\?percent)?"
)
NAMES = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen"),
)
MOST = 400  # of a power of ten; what is larger is compared otherwise
BASE = re.compile(
    r"\(?\s*(?P<digits>[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s*\)?\s*"
    r"(?:_\s*[{(]*\s*(?:base\s*)?(?P<sub>\d+|[a-z]{3,})\s*[})]*|\(?\s*(?:in\s+)?base[\s-]*(?P<word>\d+|[a-z]{3,})\s*\)?)"
)
LEFT = re.compile(r"^[a-zA-Z](?:_\{?\w+\}?)?\s*=\s*")


def number(text: str) -> tuple[Fraction, bool, bool] | None:
    """Value, whether it is a percentage, and whether it is written as a decimal; None: not one number.

    Args:
        text: as `clean` leaves it.
    """
    match = NUMBER.fullmatch(text.strip().strip("()") if text.count("(") == 1 else text.strip())
    if match is None or len(text) > 1000:
        return None
    group = match.groupdict()
    if group["decimal"]:
        power = int(group["e"] or group["f"] or 0)
        if abs(power) > MOST:
            return None
        value = Fraction(group["decimal"]) * Fraction(10) ** power
    else:
        below = int((group["b"] or group["d"]).strip("{} "))
        if below == 0:
            return None
        value = int(group["whole"] or 0) + Fraction(int((group["a"] or group["c"]).strip("{} ")), below)
    percent = bool(group["percent"])
    value = (-value if group["sign"] == "-" else value) / (100 if percent else 1)
    return value, percent, bool(group["decimal"]) and "." in group["decimal"]


def in_base(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that states one, as `4343_6`; None: it states none."""
    match = BASE.fullmatch(LEFT.sub("", text.strip()))
    if match is None:
        return None
    named = match["sub"] or match["word"]
    if not named.isdigit() and named not in NAMES:
        return None
    base = int(named) if named.isdigit() else NAMES.index(named) + 2
    digits = match["digits"].upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or not digits.replace(".", "", 1).isalnum():
        return None
    # Letters that are no digits of this base: an indexed name, as x_6.
    return (digits, base) if all(int(digit, 36) < base for digit in digits if digit != ".") else None
