"""Text that a model or a benchmark wrote, as HTML that can do nothing: escaped, with its formulas as MathML."""

import functools
import re
import xml.etree.ElementTree as ET

from latex2mathml.converter import convert
from markupsafe import escape

LIMIT = 20_000  # characters of a text that are shown; of a longer one its two ends
LONGEST_FORMULA = 1_000
# As in Pandoc: between dollars stand no blanks at the ends, and no digit follows (prices).
FORMULA = re.compile(
    rf"\\\((.{{1,{LONGEST_FORMULA}}}?)\\\)"
    rf"|\\\[(.{{1,{LONGEST_FORMULA}}}?)\\\]"
    rf"|\$\$(.{{1,{LONGEST_FORMULA}}}?)\$\$"
    rf"|(?<![\\$\w])\$(?![\s$])([^$\n]{{1,{LONGEST_FORMULA}}}?)(?<![\s\\])\$(?![\d$])"
    r"|(\\boxed\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]*\})*\})*\})",
    re.DOTALL,
)
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
ELEMENTS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msup", "msub", "msubsup", "munder",
    "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose",
}  # fmt: skip
ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "stretchy", "fence", "form", "separator", "accent", "movablelimits",
    "largeop", "symmetric", "linethickness", "columnalign", "columnlines", "columnspacing", "rowlines", "rowspacing",
    "width", "height", "depth", "lspace", "rspace", "mathvariant", "minsize", "maxsize", "notation",
}  # fmt: skip


def visible(text: str) -> str:
    """The text with its controls of direction spelled out: unseen they would let 21 be read as 12."""
    return DIRECTION.sub(lambda control: f"⟨U+{ord(control[0]):04X}⟩", text)


def to_html(text: str) -> str:
    """The text escaped, its formulas as MathML; a formula that is not understood stays as it was written."""
    text = visible(text)
    parts, end = [], 0
    for match in FORMULA.finditer(text):
        parts += [escape(text[end : match.start()]), _formula(match)]
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def shorten(text: str) -> str:
    """At most `LIMIT` characters of a text: its beginning and its end, and how much is left out between them."""
    if len(text) <= LIMIT:
        return text
    half = LIMIT // 2
    return f"{text[:half]}\n\n[… {len(text) - LIMIT:,} characters are not shown …]\n\n{text[-half:]}"


def _formula(match: re.Match) -> str:
    """The MathML of a match, or the escaped text of it."""
    inline = match[1] or match[4] or match[5]
    return _mathml(inline or match[2] or match[3], "inline" if inline else "block") or escape(match[0])


@functools.lru_cache(maxsize=100_000)
def _mathml(latex: str, display: str) -> str | None:
    """MathML of elements and attributes that only draw; None where the formula has others or is none.

    latex2mathml passes markup, links and styles through as they come: so its result is read and written anew.
    """
    try:
        tree = ET.fromstring(convert(latex, xmlns="", display=display).replace(' xmlns=""', ""))  # noqa: S314 - no DTD
    except Exception:  # noqa: BLE001 - whatever a model may write
        return None
    for element in tree.iter():
        if element.tag not in ELEMENTS or not element.attrib.keys() <= ATTRIBUTES:
            return None
    return ET.tostring(tree, encoding="unicode", short_empty_elements=False)
