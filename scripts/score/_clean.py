"""What a model writes into a box or a sentence → plain LaTeX: the same value without its dress."""

import re
import unicodedata

LONGEST = 5000  # characters of an answer; whatever is longer is none that could be read in time

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()", strict=True))
CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "－": "-", "×": r"\times ", "✕": r"\times ",
    "÷": "/", "⁄": "/", "∕": "/", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ",
    "σ": r"\sigma ", "μ": r"\mu ", "→": r"\to ", "∖": r"\setminus ", "∨": r"\lor ", "∧": r"\land ", "…": r"\ldots ",
    "，": ",", "。": ".", "：": ":", "；": ";",
}  # fmt: skip
FRACTIONS = {name: f"\\frac{{{a}}}{{{b}}}" for name, a, b in [
    ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5), ("⅘", 4, 5),
    ("⅙", 1, 6), ("⅚", 5, 6), ("⅐", 1, 7), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8), ("⅑", 1, 9),
    ("⅒", 1, 10),
]}  # fmt: skip
INVISIBLE = re.compile("[\u0300-\u036f\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff\u00ad\0]")
WIDE_SPACE = re.compile(
    r"[\u00a0\u2000-\u200a\u202f\u205f\u3000]|(?<!\\)~|\\[,;:>]|(?<!\\)\\ |\\(?:quad|qquad|enspace|thinspace"
    r"|medspace|thickspace|nobreakspace|space|,)(?![a-zA-Z])|\\[hm]space\*?\{[^{}]*\}"
)
# Macros whose argument is all that they say: words, and formulas in a style.
TEXT = (
    "text|textbf|textit|textrm|textsf|texttt|textup|textnormal|textmd|textsl|textsc|emph|mbox|hbox|mathrm|operatorname"
)
STYLE = (
    "mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|bold|underline|uline|underbrace|overbrace|boxed|fbox"
    "|framebox|ensuremath|Large|LARGE|large|huge|Huge|normalsize|small|footnotesize|scriptsize|tiny|displaystyle"
    "|textstyle|scriptstyle|scriptscriptstyle|normalfont|bf|rm|it|sf|bfseries|mathord|mathop|ans"
)
WITH_ARGUMENT = re.compile(rf"\\(?:({TEXT})|{STYLE})\s*\{{")
COLOURED = re.compile(r"\\(?:textcolor|color|colorbox)\s*(?:\[[^\[\]]*\])?\s*\{[^{}]*\}")
BARE = re.compile(
    rf"\\(?:{TEXT}|{STYLE}|left\.?|right\.?|[bB]igg?[lr]?|limits|nolimits|!|allowbreak|nobreak)(?![a-zA-Z])|\\[hv]?phantom\{{[^{{}}]*\}}"
)
THOUSANDS = re.compile(r"(?<![\w.,)}])(\d{1,3})((?: \d{3})+)(?![\d,]| ?\d)")
COMMAS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)")
REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot|overbar)\s*\{?(\d+)\}?|\((\d+)\))")
POINTS = re.compile(r"(\d{0,20})\.(\d{0,20}?)(\d{1,6}?)\3{2,}\s*(?:\.\.\.|\\[lc]?dots)")
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?![\w.])")
DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s*[({]?\s*)(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
RADICAL = re.compile(r"([√∛∜])\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[a-zA-Z]))")
ROOT = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
UNBRACED = re.compile(r"\\(?:[sdtc]|nice|flat|x)?frac(?=[\s\d{\\])|\\nicefrac|\\flatfrac")
OVER = re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}")
EMPTY = re.compile(r"\{([.,]|\s*)\}")
ROOT_OF = re.compile(r"(?<![a-zA-Z])\\?sqrt\s*(?:\(([^()]*)\)|(\d{2,}))")
INDEXED = re.compile(r"\{([0-9A-Za-z.]+)\}(?=\s*_)")
SMALL_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+)")
BLANKS = re.compile(r"\s+")
FUNCTIONS = re.compile(
    r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm|max|min|pi|theta|infty|sqrt)"
    r"(?![a-zA-Z])"
)


def argument(text: str, start: int) -> int:
    """Position of the brace that closes the one at `start`; -1: none does."""
    depth = 0
    for match in re.compile(r"\\.|[{}]").finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return -1


def unwrap(text: str) -> str:
    """Without macros of style, colour and size; what they hold stays."""
    text = COLOURED.sub("", text)
    while match := WITH_ARGUMENT.search(text):
        end = argument(text, match.end() - 1)
        inner, behind = text[match.end() : end if end >= 0 else len(text)], text[end + 1 :] if end >= 0 else ""
        before = text[: match.start()]
        # A word stays one; a letter among digits is a digit; a macro before must not grow.
        apart = match[1] and not re.match(r"[\d_^]", behind)
        text = before + (" " if apart or before[-1:].isalpha() else "") + inner + (" " if apart else "") + behind
    return BARE.sub(" ", text)


def from_unicode(text: str) -> str:
    """Signs of mathematics outside of ASCII, as LaTeX."""
    text = INVISIBLE.sub("", text)
    text = SMALL_FRACTION.sub(lambda m: unicodedata.normalize("NFKC", f"\\frac{{{m[1]}}}{{{m[2]}}}"), text)
    for characters, sign in ((SUPERSCRIPTS, "^"), (SUBSCRIPTS, "_")):
        run = "[" + re.escape("".join(characters)) + "]+"
        text = re.sub(run, lambda m, c=characters, s=sign: f"{s}{{{''.join(c[x] for x in m[0])}}}", text)
    text = RADICAL.sub(lambda m: f"{ROOT[m[1]]}{{{m[2] or m[3] or m[4]}}}", text)
    text = "".join(CHARACTERS.get(c) or FRACTIONS.get(c) or c for c in text)
    return "".join(c if c.isascii() else unicodedata.normalize("NFKC", c) for c in text)


def repeating(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction."""
    whole, fixed, period = match[1], match[2], match[3] or match[4]
    shift = 10 ** len(fixed)
    nines = 10 ** len(period) - 1
    return f"\\frac{{{int((whole or '0') + fixed) * nines + int(period)}}}{{{shift * nines}}}"


def clean(content: str) -> str:
    """The same value in plain LaTeX; words stay, as words. Nothing of what is too long to be read."""
    if len(content) > LONGEST:
        return ""
    text = WIDE_SPACE.sub(" ", from_unicode(content).replace(r"\!", ""))
    text = EMPTY.sub(lambda m: m[1] or "", text)
    text = unwrap(text).replace("**", " ").replace("__", " ").replace("`", " ")
    text = UNBRACED.sub(lambda _: r"\frac", text)
    text = OVER.sub(lambda m: f"\\frac{{{m[1].strip()}}}{{{m[2].strip()}}}", text)
    text = text.replace(r"\dfrac", r"\frac").replace(r"\*", "*").replace(r"\lbrace", r"\{").replace(r"\rbrace", r"\}")
    text = re.sub(r"\\\(|\\\)|\\\[|\\\]|\$\$", " ", text)
    text = REPEATING.sub(repeating, POINTS.sub(repeating, text))
    text = DEGREES.sub(lambda m: f"{m[1]}\\frac{{{m[2]}\\pi}}{{180}}", text)
    text = SCIENTIFIC.sub(lambda m: f"{m[1]} \\times 10^{{{int(m[2])}}}", text)
    text = ROOT_OF.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    text = INDEXED.sub(lambda m: m[1], FUNCTIONS.sub(lambda m: "\\" + m[1], text))
    text = re.sub(r"(?<![\\a-zA-Z])infinity(?![a-zA-Z])", r"\\infty", text)
    text = BLANKS.sub(" ", text).strip()
    text = THOUSANDS.sub(lambda m: m[1] + m[2].replace(" ", ""), text)
    return trim(text)


def trim(text: str) -> str:
    """Without punctuation at its ends, and without braces around all of it."""
    before = None
    while text != before:
        before = text
        text = text.strip().rstrip(".,;:'\"").lstrip(",;:!'\"").strip()
        text = text if r"\begin" in text else text.rstrip("\\").rstrip()
        if text.startswith("{") and argument(text, 0) == len(text) - 1:
            text = text[1:-1]
    return text


JOINED = re.compile(r"\s*(?:,|;|\\qquad|\\quad)?\s*(?<![a-zA-Z\\])(?:and|or|und|\\&|&)(?![a-zA-Z])\s*,?\s*")


def separated(text: str) -> str:
    """With commas for "and" and "or" between values."""
    return text if "\\begin" in text else JOINED.sub(", ", text)


def without_commas(text: str) -> str:
    """With thousands written together, where commas part nothing else."""
    return COMMAS.sub(lambda m: m[0].replace(",", ""), text) if not re.search(r",(?!\d{3}(?!\d))", text) else text
