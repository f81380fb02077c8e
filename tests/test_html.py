"""Texts for the page: escaped, with formulas, in pieces; how they behave in a browser is tests/test_page.py."""

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from scripts.report._html import ATTRIBUTES, ELEMENTS, LIMIT, shorten, to_html
from scripts.report.explorer import PIECE, output_html, split

WORDS = [*"<>&\"'$\\(){}[]ab1^_ \n/=!-", "\\text", "\\frac", "\\(", "\\)", "<script>", "<!--", "</think>"]


@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_any_text_becomes_nothing_but_text_and_formulas(text: str):
    html = output_html(text, "</think>")
    tree = ET.fromstring(f"<body>{html}</body>")  # noqa: S314 - made by what is tested
    for element in tree.iter():
        assert element.tag in ELEMENTS | {"body", "div"}
        assert set(element.attrib) <= (ATTRIBUTES if element.tag in ELEMENTS else {"class"})
    if "<math" not in html and "</think>" not in text:
        assert "".join(tree.itertext()) == text


def test_formulas_are_drawn_and_prices_are_not():
    assert "<mfrac>" in to_html(r"so \(\frac{a}{b} < 2\)")
    assert "<msup>" in to_html("thus $x^2$.")
    assert 'display="block"' in to_html(r"\[ x = 1 \]")
    assert "menclose" in to_html(r"\boxed{\frac{1}{2}}")
    for styled in (
        r"\(\href{javascript:x}{y}\)",
        r"\(\style{color:red}{y}\)",
        r"\(\class{list}{y}\)",
        r"\(\text{<b>}\)",
    ):
        assert "<math" not in to_html(styled)
    assert to_html("it costs $5 and $6") == "it costs $5 and $6"
    assert to_html(r"$\frac{$") == r"$\frac{$"
    assert to_html("$" + "{" * 900 + "$").startswith("${{{")  # deeper than latex2mathml can go


def test_a_long_text_keeps_its_ends():
    text = "a" * LIMIT + "b" * LIMIT
    short = shorten(text)
    assert short.startswith("a" * (LIMIT // 2))
    assert short.endswith("b" * (LIMIT // 2))
    assert f"{LIMIT:,} characters are not shown" in short


def test_pieces_hold_whole_questions_and_stay_small():
    question = ["x" * (PIECE // 4)] * 2
    assert split([question] * 5) == [0, 2, 4]
    assert split([["x" * 3 * PIECE]] * 3) == [0, 1, 2]
