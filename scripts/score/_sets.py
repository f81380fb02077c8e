"""Intervals and inequalities as sets of real numbers, however they are written."""

import re
from collections.abc import Callable

from sympy import Basic, Complement, EmptySet, FiniteSet, Intersection, Interval, Reals, Set, Union, oo

Read = Callable[[str], Basic | None]
RELATIONS = {
    r"\leqslant": "<=", r"\geqslant": ">=", r"\leq": "<=", r"\geq": ">=", r"\le": "<=", r"\ge": ">=", r"\lt": "<",
    r"\gt": ">", r"\neq": "!=", r"\ne": "!=", "=<": "<=", "=>": ">=",
}  # fmt: skip
RELATION = re.compile(r"<=|>=|!=|<|>")
INTERVAL = re.compile(r"([(\[\]])(.+?),(.+)([)\[\]])")
MEMBER = re.compile(r"^[a-zA-Z](?:\(\w\))?\s*(?:\\in(?![a-zA-Z])|=(?=\s*[(\[\]]))\s*")
BUILDER = re.compile(r"^\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\||:|\\colon)\s*(.*)\\\}$")
VARIABLE = re.compile(r"\\?[a-zA-Z]+|\\theta|\\alpha")


def to_set(text: str, read: Read) -> Set | None:
    """The set that an interval, an inequality or a union of them stands for; None: it is written as none of these.

    A pair in round brackets may be a point as well: it counts as an interval here.

    Args:
        text: as `clean` leaves it.
        read: LaTeX → number, of the ends.
    """
    for macro, sign in RELATIONS.items():
        text = re.sub(re.escape(macro) + r"(?![a-zA-Z])", sign, text)
    text = text.replace("≤", "<=").replace("≥", ">=")
    if match := BUILDER.match(text.strip()):
        text = match[1]
    text = MEMBER.sub("", text.strip())
    pieces = re.split(r"\\cup(?![a-zA-Z])|\\lor(?![a-zA-Z])|\bor\b|(?<![a-zA-Z\\])U(?![a-zA-Z])|\|\|", text)
    if len(pieces) == 1 and RELATION.search(text) and not INTERVAL.fullmatch(text):
        alternatives = [part for part in re.split(r"[,;]", text) if part.strip()]
        if len(alternatives) > 1:
            return _joined(alternatives, read)
    sets = [_intersection(piece, read) for piece in pieces]
    return None if any(found is None for found in sets) else Union(*sets)


def _joined(parts: list[str], read: Read) -> Set | None:
    """Inequalities with commas between: all must hold where they can, else any (`x<-1, x>1`)."""
    sets = [_piece(part, read) for part in parts]
    if any(found is None for found in sets):
        return None
    both = Intersection(*sets)
    return Union(*sets) if both is EmptySet or both == EmptySet else both


def _intersection(text: str, read: Read) -> Set | None:
    sets = [_piece(part, read) for part in re.split(r"\\cap(?![a-zA-Z])|\\land(?![a-zA-Z])|\band\b|\\&|&", text)]
    return None if any(found is None for found in sets) else Intersection(*sets)


def _piece(text: str, read: Read) -> Set | None:
    """One interval or one chain of inequalities."""
    text = MEMBER.sub("", text.strip()).strip()
    if re.fullmatch(r"\\mathbb\s*\{?R\}?|\\R|\(-\\infty,\s*\+?\\infty\)", text):
        return Reals
    if text in (r"\emptyset", r"\varnothing"):
        return EmptySet
    if without := re.fullmatch(r"(.+?)\s*(?:\\setminus|\\backslash|\\smallsetminus)\s*\\\{(.+)\\\}", text):
        whole, points = _piece(without[1], read), [read(point) for point in without[2].split(",")]
        return None if whole is None or None in points else Complement(whole, FiniteSet(*points))
    if points := re.fullmatch(r"\\\{(.+)\\\}", text):
        values = [read(point) for point in points[1].split(",")]
        return None if None in values else FiniteSet(*values)
    if interval := INTERVAL.fullmatch(text):
        opening, low, high, closing = interval.groups()
        if closing == "[" or opening == "]" or RELATION.search(text) is None:
            return _between(read(low), read(high), opening in "(]", closing in ")[")
    relations = RELATION.findall(text)
    terms = [term.strip() for term in RELATION.split(text)]
    return _chain(terms, relations, read) if relations else None


def _between(low: Basic | None, high: Basic | None, left_open: bool, right_open: bool) -> Set | None:
    if low is None or high is None or not (low.is_extended_real and high.is_extended_real):
        return None
    return Interval(low, high, left_open or low == -oo, right_open or high == oo)


def _chain(terms: list[str], relations: list[str], read: Read) -> Set | None:
    """`a < x <= b`, `x < a`, `a >= x`, `|x| < a`, `x != a`."""
    if any(not term for term in terms):
        return None
    places = [i for i, term in enumerate(terms) if VARIABLE.fullmatch(term) and "infty" not in term]
    absolute = re.fullmatch(r"\\?\|\s*[a-zA-Z]\s*\\?\|", terms[0])
    if absolute and len(terms) == 2:
        bound = read(terms[1])
        if bound is None or not bound.is_extended_real:
            return None
        inner = Interval(-bound, bound, "=" not in relations[0], "=" not in relations[0])
        outer = Complement(Reals, Interval(-bound, bound, "=" in relations[0], "=" in relations[0]))
        return {"<": inner, ">": outer}.get(relations[0][0])
    if len(places) != 1 or (len(terms) == 3 and places != [1]) or len(terms) > 3:
        return None
    place = places[0]
    sets = []
    for i, relation in enumerate(relations):
        other = read(terms[i + 1] if i == place else terms[i])
        if other is None or not other.is_extended_real:
            return None
        if relation == "!=":
            sets.append(Complement(Reals, FiniteSet(other)))
            continue
        below = (relation[0] == "<") == (i == place)  # the variable lies below the other side
        open_end = "=" not in relation
        ends = (-oo, other, True, open_end) if below else (other, oo, open_end, True)
        sets.append(Interval(*ends))
    return Intersection(*sets)
