"""Multiple choice, A to D: by the study's seven patterns, and as a careful human reads what stands behind the thought.

All patterns take time in proportion to the text, so no time limit is needed.
"""

import re

from scripts.score._clean import clean
from scripts.score._stated import boxes
from scripts.score._verdict import Verdict, behind_thought

# The study's metric (lighteval's `lazy_indices_regex`, English, letters, without an anchor): the last match of the
# first pattern that matches anything. The last one takes any capital A to D: an output without sense still guesses.
_X = r"(?P<letter>[A-D]|\([A-D]\))"
_ALONE = rf"(?:^| )(?:\*\*)?{_X}(?:\*\*)?(?:\.|[,，]|[:：]| |$)"
STUDY = [
    re.compile(pattern)
    for pattern in (
        rf"(?i:final answer is):?\s*+{_X}\.?\s?I hope",
        rf"(?i:final answer.{{0,100}}?)\s++is:?\s*+{_X}",
        rf"(?i:answer)[:：].{{0,50}}?{_ALONE}",
        rf"(?i:answer).{{0,50}}?{_ALONE}",
        rf"(?m:^)(?:\*\*)?{_X}(?:\*\*)?(?:\.|[,，]|[:：]| |$)",
        _ALONE,
        _X,
    )
]

# A careful reader's. What may stand before a letter, bounded: else many \boxed{ would take quadratic time.
_DRESS = (
    r"(?:[\s*_$({\[\"'“‘`~]|\\[(\[,;:! ]"
    r"|\\(?:boxed|fbox|text|textbf|textrm|textit|mathrm|mathbf|mathsf|rm|bf|quad)(?![a-z])"
    r"|(?i:\b(?:option|choice|letter|statement|answer|number|clearly|therefore|thus|indeed|likely|most|probably|simply"
    r"|then|the)\b)[:：,]?){0,14}+"
)
_CLOSED = r"[)\]}\"'”’`*_$]{0,6}"
# Not the beginning of a word, a formula, an isotope or a sum; not one of several; "A" not an article.
_END = (
    r"(?![^\W_]|_[\w{]|[\^=+⁺′]|['’][a-z]|[-‐–−]\w)"
    rf"(?!{_CLOSED}\s?(?:=|\?|\^))"
    rf"(?!{_CLOSED}\s*(?:/|&|,?\s*(?:and|or|nor)\b|,(?=\s*[(*\"]*[A-D]\W*(?:,|and\b|or\b|$)))\s*(?:{_DRESS})[A-D]\b)"
)
_LETTER = rf"(?:([BCD]){_END}|(A){_END}(?! [a-z](?!s |s, |ecause|ince|, ))|([a-d])(?=[^\w\n^=+-]*$))"
_ENDS = r"(?:\bis\b|\bare\b|\bbe\b|\bwas\b|[:：=→]| [-–—] )"
STATEMENTS = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # The answer is C; Answer: C; the correct choice would be option C
        rf"(?i:(?<![a-z])answers?(?![a-z])|\b(?:correct|right|best|final|true) (?:option|choice|letter|statement|one)\b"
        rf"|\b(?:option|choice)\b(?= is\b| ?[:：]))"
        rf"(?:[^.\n:：?=]{{0,60}}?{_ENDS}|[ \t*_]{{0,6}}\n{{1,3}}|[ \t]){_DRESS}{_LETTER}",
        # Option C is correct; (C) is the right answer
        r"(?i:\b(?:option|choice|answer|statement)\s+)?[(\[*\"'`$]{0,4}\b([A-D])\b[)\]*\"'`$]{0,4}"
        r"(?:,? (?i:(?:is|must be|seems|would be) (?:clearly |therefore |indeed |thus |most likely )?(?:the )?"
        r"(?:correct|right|best|most \w+|true)(?:\b(?! (?:for|in|if|only)))))()()",
        # I choose C; so we select option (C)
        rf"(?i:\b(?:choose|select|pick|go with|going with|chose|opt for|settle on))\b{_DRESS}{_LETTER}",
        rf"(?i:<answer>){_DRESS}{_LETTER}",
        # a line with nothing else
        r"^[\s>#]{0,4}[(\[*_\"'`$]{0,5}([A-D])[)\]*_\"'`$.:]{0,5}\s*\Z()()",
    )
]
DENIED = re.compile(
    r"(?:\b(?:not|why|never|if|whether|unless|rather than|could|might)\b|n't\b)[^.\n]{0,40}$", re.IGNORECASE
)
NEGATED = re.compile(r"\b(?:not|cannot|never|neither|nor)\b|n't\b", re.IGNORECASE)
DENIED_BEHIND = re.compile(r"^[^\w\n]{0,8}(?:is|was|would be)? ?(?:not\b|wrong\b|incorrect\b|\?)", re.IGNORECASE)
IN_BOX = re.compile(
    r"(?:(?i:the )?(?i:correct |final )?(?i:option|choice|answer|letter)?\s*(?:is\b)?\s*[:：]?\s*)?"
    r"[(\[]?\s*([A-Da-d])\s*[)\].:]*"
)
WITH_TEXT = re.compile(r"(?:(?i:option|choice|answer)\s*:?\s*)?[(\[]?([A-D])\s*[).:\]]\s*\S.*", re.DOTALL)


def by_study(text: str) -> str | None:
    """The letter that the study's code finds."""
    for pattern in STUDY:
        found = None
        for found in pattern.finditer(text):  # noqa: B007 - the last one counts
            pass
        if found:
            return found["letter"].strip("()")
    return None


def by_reader(text: str) -> str | None:
    """The letter that a text states, the last statement of one; None: it states none, or several."""
    found = [(end, letter) for _, end, content in boxes(text) if (letter := _in_box(content))]
    for pattern in STATEMENTS:
        for match in pattern.finditer(text):
            line = text.rfind("\n", 0, match.start()) + 1
            denied = DENIED.search(text[max(line, match.start() - 60) : match.start()])
            letter = next(group for group in match.groups() if group)
            refused = DENIED_BEHIND.match(text[match.end() : match.end() + 30])
            if not denied and not refused and not NEGATED.search(match[0]):
                found.append((match.end(), letter.upper()))
    return max(found)[1] if found else None


def _in_box(content: str) -> str | None:
    text = clean(content)
    match = IN_BOX.fullmatch(text) or WITH_TEXT.fullmatch(text)
    return match[1].upper() if match else None


def judge(output: str, gold: str, thinks: bool = True) -> Verdict:
    """Judge one output against the right letter."""
    whole, final = by_study(output), by_reader(behind_thought(output, thinks))
    return Verdict(
        correct=whole == gold,
        correct_final=final == gold,
        extracted=whole,
        status="ok" if whole else "no_answer",
        extracted_final=final,
        status_final="ok" if final else "no_answer",
    )


def judge_all(pairs: list[tuple[str, str]], thinks: bool = True) -> list[Verdict]:
    return [judge(output, gold, thinks) for output, gold in pairs]
