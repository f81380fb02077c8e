"""Whether an answer is the right one, as a careful human would say who reads both.

math-verify does the algebra. Around it: numbers are compared exactly, or relatively where a decimal was rounded; digits
in their base; intervals and inequalities as sets; names and dates as words; units where both state one.
"""

import re
from functools import lru_cache

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, MatrixBase, Rational, Set, Tuple, default_sort_key
from sympy.core.relational import Relational

from scripts.score._clean import clean, separated, trim, without_commas
from scripts.score._numbers import in_base, number
from scripts.score._sets import to_set
from scripts.score._units import split_unit

BOX = [LatexExtractionConfig(boxed_match_priority=0)]
ROUNDING = 6  # decimals up to which a rounded number counts as equal, as in math-verify
RELATIVE = 5e-5  # and how far it may lie beside, near zero
MONTHS = set("January February March April May June July August September October November December".lower().split())
FILLERS = {"the", "a", "an", "is", "are", "on", "of", "it", "they"}
LABEL = re.compile(
    r"^(?:(?:therefore|thus|hence|so|and) *,? *)?(?:the |our |my |your )?(?:(?:final|correct|right|exact) )*"
    r"(?:answer|result|value|solution|solutions)(?: (?:is|are|equals)| *:| *=) *:? *",
    re.IGNORECASE,
)
NAMED = re.compile(
    r"^(?:(?:\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([^()=<>]*\))?|\|[A-Z]+\||\([a-z, ]+\))\s*(?<![<>!\\])="
    r"|[a-zA-Z]\s*\\in(?![a-z]))\s*(?!.*[<>])"
)
FORMULA = re.compile(r"[\d\\^_+=<>|/*{}()\[\]]")
POINTS = [Rational(37, 23), Rational(53, 17), Rational(-29, 19), Rational(-71, 31)]  # where two terms are evaluated


def same(gold: str, answer: str) -> bool:
    """Whether an answer, as it stands in a box or a sentence, has the value of the published one."""
    truth, found = plain(gold), plain(answer)
    if not found or truth == found:
        return bool(found)
    bases = in_base(truth), in_base(found)
    if any(bases):
        return _same_digits(truth, found, bases)
    if _is_text(truth):
        alike = words(truth) == words(found) and _is_text(found)
        if alike or len(truth.strip("().")) > 1:  # else it may be a variable
            return alike
    value, unit = split_unit(truth)
    for form in forms(found, truth):
        other, stated = split_unit(form)
        if other and (not unit or not stated or unit == stated) and _same_value(value, other):
            return True
    return False


def readable(answer: str, gold: str) -> bool:
    """Whether an answer can be read: as a number, a set or a term; as words where words are asked for."""
    text = plain(answer)
    value = split_unit(text)[0]
    if not text or _is_text(text):
        return bool(text) and is_text(gold)
    return any((in_base(text), number(value), to_set(value, read) is not None, term(separated(value)) is not None))


def is_text(gold: str) -> bool:
    """Whether a published answer is a name, a date or a word."""
    return _is_text(plain(gold))


def is_list(gold: str) -> bool:
    """Whether a published answer has several parts."""
    return bool(_elements(plain(gold)))


def plain(text: str) -> str:
    return trim(LABEL.sub("", clean(text), count=1))


def forms(answer: str, gold: str) -> list[str]:
    """An answer as it is, without the name that it gives to the value, and without an approximation behind it."""
    found = [answer]
    if r"\approx" in answer and r"\approx" not in gold:
        first, _, last = answer.partition(r"\approx")
        exact = NAMED.sub("", first).strip()
        found = [last.strip() if re.fullmatch(r"\\?[a-zA-Z]*", exact) else exact]
    if "=" not in gold:
        found += [NAMED.sub("", form).strip() for form in found if NAMED.match(form)]
    return found


def _same_value(gold: str, answer: str) -> bool:
    joined, other = without_commas(gold), without_commas(answer)
    numbers = number(joined), number(other)
    if all(numbers):
        return _same_number(*numbers)
    sets = to_set(gold, read), to_set(answer, read)
    if all(found is not None for found in sets) and any(_surely_a_set(text) for text in (gold, answer)):
        return _same_set(*sets)
    elements = [_elements(text) for text in (gold, answer)]
    if all(elements) and len(elements[0]) != len(elements[1]):
        return False
    truth, found = term(separated(gold)), term(separated(answer))
    if truth is None or found is None:
        return False
    if "%" not in gold + answer and not _near(_value(truth), _value(found)):
        return False
    equal = verify(truth, found, timeout_seconds=None, allow_set_relation_comp=True)
    return bool(equal) or _equal_at_points(truth, found)


def _same_digits(truth: str, found: str, bases: tuple[tuple[str, int] | None, tuple[str, int] | None]) -> bool:
    """Digits are compared as they are written: a number in another base is another answer."""
    if all(bases):
        return bases[0] == bases[1]
    stated, bare = (bases[0], found) if bases[0] else (bases[1], truth)
    bare = re.sub(r"^[a-zA-Z]\s*=\s*", "", bare).strip("() ").upper().lstrip("0") or "0"
    # A base that only the answer states must be the usual one.
    return bare == stated[0] and (bases[0] is not None or stated[1] == 10)


def _same_number(a: tuple, b: tuple) -> bool:
    (x, x_percent, x_decimal), (y, y_percent, y_decimal) = a, b
    if x == y or (x_percent != y_percent and (x == 100 * y or y == 100 * x)):
        return True
    if not (x_decimal or y_decimal) or x.denominator == y.denominator == 1:
        return False
    return round(x, ROUNDING) == round(y, ROUNDING) and x * y > 0 and abs(x - y) <= RELATIVE * abs(x)


def _is_text(text: str) -> bool:
    """Words and no formula: a name, a date, yes or no, a lettered choice."""
    if any(word in MONTHS for word in re.findall(r"[a-z]+", text.lower())) and not re.search(r"[\\^_=+]", text):
        return True
    bare = text.replace(r"\ ", " ").strip("().")
    return bool(re.search(r"[a-zA-Z]{3,}|^[A-Za-z]$|\b(?:no|NO|No)\b", bare)) and not FORMULA.search(bare)


def words(text: str) -> list[str]:
    """What is said, without spelling: small letters, no punctuation, no fillers; a date in any order."""
    text = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", re.sub(r"(?<=\w)['-](?=\w)", "", text.lower()))
    found = re.findall(r"[a-z]+|\d+", text)
    found = [word for word in found if word not in FILLERS] or found
    return sorted(found) if any(word in MONTHS for word in found) else found


def _surely_a_set(text: str) -> bool:
    """More than a pair in round brackets, which may be a point."""
    return bool(re.search(r"<|>|\\le|\\ge|\\lt|\\gt|\\ne|infty|\\cup|\\in(?![a-z])|\\setminus|\[|\]|R\}", text))


def _same_set(a: Set, b: Set) -> bool:
    if a == b:
        return True
    parts = [sorted(found.args if found.is_Union else [found], key=_by_start) for found in (a, b)]
    return len(parts[0]) == len(parts[1]) and all(map(_same_part, *parts))


def _by_start(part: Set) -> float:
    if part.is_Interval:
        return float(part.start)
    return float(min(part.args)) if part.args else 0.0


def _same_part(a: Set, b: Set) -> bool:
    if a.is_Interval and b.is_Interval:
        ends = (a.left_open, a.right_open) == (b.left_open, b.right_open)
        return ends and _equal_numbers(a.start, b.start) and _equal_numbers(a.end, b.end)
    return a == b


def _equal_numbers(a: Basic, b: Basic) -> bool:
    return bool(verify(a, b, timeout_seconds=None)) and _near(a, b)


def _elements(text: str) -> list[str]:
    """The parts of a list at its top level; one alone is the value itself. Of brackets around all only the inside."""
    text = separated(text).replace(r"\{", "(").replace(r"\}", ")").strip()
    if not re.search(r"[,;]", text) or r"\pm" in text:
        return []
    if text[0] in "([" and text[-1] in ")]" and _depth_stays(text[1:-1]):
        text = text[1:-1]
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _depth_stays(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return True


@lru_cache(maxsize=64)
def term(text: str) -> Basic | MatrixBase | None:
    """LaTeX as math-verify reads it; None: it does not."""
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", re.sub(r"\\begin\{\w+\}(?:\{\w+\})?|\\end\{\w+\}", "", text)):
        return None  # words: math-verify would multiply their letters
    found = parse(
        f"\\boxed{{{text}}}", BOX, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
    )
    return found[0] if found and not isinstance(found[0], str) else None


def read(text: str) -> Basic | None:
    """The number at the end of an interval."""
    found = term(text.strip().replace(r"+\infty", r"\infty"))
    found = found.doit() if isinstance(found, Expr) else None
    return found if found is not None and not found.free_symbols else None


def _value(found: Basic | MatrixBase) -> Basic | MatrixBase:
    """What an equation says of the value: its right side."""
    return found.rhs if isinstance(found, Relational) and found.rel_op == "==" else found


def _near(a: Basic | MatrixBase, b: Basic | MatrixBase) -> bool:
    """Whether what math-verify takes for equal is so relatively, too: it compares decimals, in which 1/2^99 is 0."""
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase) and a.shape == b.shape:
        return all(map(_near, a.flat(), b.flat()))
    if isinstance(a, Set | Tuple) and isinstance(b, Set | Tuple) and len(a.args) == len(b.args):
        ordered = [sorted(found.args, key=_by_value) if isinstance(found, Set) else found.args for found in (a, b)]
        return isinstance(a, Tuple) != isinstance(b, Tuple) or all(map(_near, *ordered))
    if not isinstance(a, Expr) or not isinstance(b, Expr) or a == b:
        return True
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    values = [_at(found, symbols, POINTS[0]) for found in (a, b)]
    if None in values or any(abs(value) == float("inf") for value in values):
        return True
    x, y = values
    if x == 0 or y == 0:
        return bool(abs(x - y) < 1e-45)
    return bool(abs(x - y) <= RELATIVE * max(abs(x), abs(y)))


def _by_value(found: Basic) -> tuple:
    value = _at(_value(found), [], POINTS[0]) if isinstance(found, Expr | Relational) else None
    return (0, float(value)) if value is not None and value.is_real else (1, default_sort_key(found))


def _at(found: Basic, symbols: list, point: Rational) -> Basic | None:
    """The value of a term to 50 digits where its symbols have certain values."""
    try:
        value = found.doit().subs({symbol: point + i for i, symbol in enumerate(symbols)}).evalf(50)
    except Exception:  # noqa: BLE001 - sympy raises whatever it likes
        return None
    return value if value.is_number and value.is_finite else None


def _equal_at_points(a: Basic, b: Basic) -> bool:
    """Whether two terms in the same symbols are equal at a few points: sqrt(1/n) and 1/sqrt(n).

    At negative values only where both are real: roots there have more than one.
    """
    if not (isinstance(a, Expr) and isinstance(b, Expr) and a.free_symbols and a.free_symbols == b.free_symbols):
        return False
    symbols = sorted(a.free_symbols, key=str)
    for point in POINTS:
        x, y = _at(a, symbols, point), _at(b, symbols, point)
        if x is None or y is None:
            return False
        if point < 0 and not (x.is_real and y.is_real):
            continue
        if abs(x - y) > 1e-30 * max(abs(x), abs(y), 1e-30):
            return False
    return True
