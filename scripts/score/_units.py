"""A value and the words around it: its unit, and what only introduces it."""

import re

from scripts.score._clean import BLANKS, trim

_NAMES = {
    "m": "meter metre", "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "s": "second sec", "min": "minute",
    "h": "hour hr", "day": "", "week": "", "month": "", "year": "yr", "g": "gram", "kg": "kilogram", "mg": "milligram",
    "lb": "pound", "l": "liter litre", "ml": "milliliter millilitre", "gal": "gallon", "dollar": "usd buck", "cent": "",
    "degree": "deg", "radian": "rad", "mph": "", "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hertz",
    "k": "kelvin", "mol": "mole", "oz": "ounce", "acre": "", "euro": "", "pa": "pascal",
}  # fmt: skip
UNITS = {word: unit for unit, names in _NAMES.items() for word in (unit, *names.split())}
POWERS = {"square": "^2", "squared": "^2", "sq": "^2", "cubic": "^3", "cubed": "^3", "cu": "^3"}
# Words that change what is said: with one of them, the number alone is not the answer.
QUALIFIERS = {
    "not", "no", "less", "more", "least", "most", "than", "greater", "fewer", "smaller", "larger", "under", "over",
    "below", "above", "between", "except", "without", "minus", "plus", "negative", "half", "thousand", "million",
    "billion", "dozen", "hundred", "undefined", "infinite", "infinitely", "none", "never", "neither", "nor", "either",
    "if", "to", "times", "base", "mod", "modulo", "approximately", "about", "roughly", "almost", "nearly", "any", "all",
    "real", "cannot", "impossible", "unknown",
}  # fmt: skip
CURRENCY = re.compile(r"\\\$|\\(?:pounds|euro|yen|EUR)(?![a-zA-Z])|[€£¥₹₽₩฿$]")
SIGNS = {"€": "euro", r"\euro": "euro", r"\EUR": "euro", "£": "sterling", r"\pounds": "sterling", "¥": "yen"}
DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*[CF]?\s*$")
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
LETTER = re.compile(r"(?<=[\d}]) +([a-zA-Z])(?:\s*\^\s*\{?\s*(\d)\s*\}?)?((?: ?/ ?[a-zA-Z]+(?:\s*\^\s*\{?\d\}?)?)?)$")
RATIO = re.compile(r"(?<=[\d}])\s*\\frac\s*\{\s*([a-zA-Z]+)\s*\}\s*\{\s*([a-zA-Z]+)\s*\}$")
AROUND = re.compile(
    r"(?: ?/ ?)?(?<![\\a-zA-Z])(?!(?:and|or)\b)[a-zA-Z]{2,}(?:'s)?(?:\s*\^\s*\{?\s*\d\s*\}?)?(?:/[a-zA-Z](?![a-zA-Z]))?"
)


def split_unit(text: str) -> tuple[str, str]:
    """A value and its unit, "" if it has none that is known: `42 meters` → `42`, `m`.

    Words around a number are left out, unless one of them changes what is said ("not", "more"): then nothing is.

    Args:
        text: as `clean` leaves it.
    """
    currency = CURRENCY.search(text)
    unit = SIGNS.get(currency[0], "dollar") if currency else ""
    text = trim(CURRENCY.sub("", text))
    if degrees := DEGREES.search(text):
        return trim(text[: degrees.start()]), "degree"
    text = RATIO.sub(r" \1/\2", text)
    if "\\begin" in text or not re.search(r"\d|\\pi|\\sqrt", text):
        return text, unit
    words = [word for word in map(str.lower, WORD.findall(text)) if word not in ("and", "or")]
    if QUALIFIERS & set(words):
        return text, unit
    found = [UNITS.get(word) or UNITS.get(word.removesuffix("s"), "") for word in words]
    power = next((POWERS[word] for word in words if word in POWERS), "")
    if letter := LETTER.search(text):
        if letter[1].lower() not in UNITS:
            return text, unit
        unit = letter[1].lower() + (f"^{letter[2]}" if letter[2] else "") + letter[3].replace(" ", "")
        text = text[: letter.start()]
    elif any(found):
        written = re.search(r"[a-zA-Z]\s*\^\s*\{?\s*(\d)\s*\}?\s*$", text)
        unit = "/".join(filter(None, found)) + (power or (f"^{written[1]}" if written else ""))
    if words:
        text = AROUND.sub(" ", text)
        text = BLANKS.sub(" ", re.sub(r"\( *\)", " ", text))
        text = re.sub(r"^[ =:]+|[ /=:]+$", "", text)
    return trim(text), unit
