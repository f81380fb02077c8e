"""The answer that a text states: in its last box, else in the last sentence that says it."""

import re

from scripts.score._clean import argument, clean

TAIL = 20_000  # characters: nobody looks further back for the answer of a text without a box
SENTENCE = 600  # characters of a sentence that are read
BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
PLACEHOLDER = re.compile(
    r"(?:(?:the|your|my|a|an)\s+)?(?:(?:final|correct|numerical|exact)\s*)*(?:answer|result|value|solution|letter|number)?"
    r"(?:\s+here)?|\.{2,}|\\[lc]?dots|…|\?+|_+|\$?letter",
    re.IGNORECASE,
)
CHANGED = re.compile(
    r"\b(?:wait|actually|no|not|nope|wrong|incorrect|mistaken?|correct(?:ing|ion|ed)?|instead|rather|hmm|but|check|verify|"
    r"therefore|thus|so|hence|sum|total|answer|gives?|then|finally)\b",
    re.IGNORECASE,
)
SEPARATOR = re.compile(r"[,;&]|\b(?:and|or)\b|\\(?:q?quad|text\s*\{\s*,?\s*(?:and|or)\s*\})|\n")
UNCLOSED = 20  # boxes without an end that are looked at: each costs a walk through the text
BETWEEN = 60  # characters at most between two boxes of one list
STATED = re.compile(
    r"(?:\banswers?\b|\bresult\b|\bsolutions?\b|答案)[^\n.:=：]{0,80}?(?:\s(?:is|are|be|equals|becomes|comes\s+(?:out\s+)?to)\b\s*:?|[:：=是])",
    re.IGNORECASE,
)
COPULA = re.compile(r"(?:\b(?:is|are|was|equals?|be|gives?|gets?|makes?|becomes?|earns?)\b|[=:]|→|⇒)")
DRESSED = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)"
    r"|(?<![\\\w])\$(?!\s?\d[\d,.]*(?:[\s.,;]|$)(?![^$\n]*\$))([^$\n]+?)(?<!\\)\$",
    re.DOTALL,
)
BOLD = re.compile(r"\*\*([^*\n]+?)\*\*|__([^_\n]+?)__|`([^`\n]+)`")
PLAIN = re.compile(
    r"(?<![\w.\\])(?:[€£$]\s?)?[-−–+]?(?:\d{1,3}(?:[,\u202f\u00a0 ]\d{3})+(?!\d)(?:\.\d+)?"
    r"|\d+(?:\.\d+)?|\.\d+|[√π½¼¾⅓⅔])"
    r"(?:\s?(?:/|\^|\\times|×|\*)\s?[-(]?\d+\)?|\s\d+/\d+|[√π½¼¾⅓⅔²³]\d*)*(?:\s?%|\s?\\%|[a-zA-Z]+)?"
)
MORE = re.compile(rf"(?:(?:\s*,\s*|\s+and\s+|\s+or\s+|,\s*and\s+)(?:{PLAIN.pattern}))+(?!\s*=)")
TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
END = re.compile(r"(?<=[^\d\s])[.!?](?=\s|$|\*)|(?<=\d)[.!?](?=\s|$|\*)|\n\s*\n")


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of each box; one that is never closed ends with the text, or its line."""
    found: list[tuple[int, int, str]] = []
    inside = unclosed = 0
    for match in BOX.finditer(text):
        if match.start() < inside:
            continue  # a box in a box
        start = match.end()
        if text[start : start + 1] == "{":
            end = argument(text, start)
            if end < 0:
                unclosed += 1
                if unclosed > UNCLOSED:
                    break
                line = text.find("\n", start)
                rest = text[start + 1 : line if line >= 0 else len(text)]
                found.append((match.start(), len(text), BOX.split(rest)[0].rstrip("$ ")))
                continue
            content, inside = text[start + 1 : end], end + 1
        else:
            bare = re.compile(r"-?[\w.,/]+").match(text, start)
            content, inside = (bare[0], bare.end()) if bare else ("", start)
        found.append((match.start(), inside, content))
    return found


def is_placeholder(content: str) -> bool:
    """Whether a box only shows where an answer goes."""
    return not content.strip() or PLACEHOLDER.fullmatch(clean(content)) is not None


def boxed(text: str) -> tuple[str, str] | None:
    """The last answer in a box, and the list of all boxes that hang together with it; None: there is none."""
    found = [box for box in boxes(text) if not is_placeholder(box[2])]
    if not found:
        return None
    joined = [found[-1]]
    for box in reversed(found[:-1]):
        between = text[box[1] : joined[0][0]]
        if len(between) > BETWEEN or not SEPARATOR.search(between) or CHANGED.search(between):
            break
        joined.insert(0, box)
    return found[-1][2], ", ".join(dict.fromkeys(content for _, _, content in joined))


def sentences(text: str) -> list[str]:
    return [part.strip() for part in END.split(text) if part and part.strip(" *_\n#-$")]


def written(text: str, words: bool = False) -> str | None:
    """The answer of a text without a box; `words`: what is asked for is a name or a word, no number."""
    text = text[-TAIL:]
    if tags := [tag for tag in TAG.findall(text) if tag.strip()]:
        return tags[-1].strip()
    if stated := list(STATED.finditer(text)):
        rest = END.split(text[stated[-1].end() :][:SENTENCE])
        rest = [part for part in rest if part and part.strip(" *_\n")]
        if rest and (value := _value(rest[0])):
            return value
    for sentence in reversed(sentences(text)[-5:]):
        part = sentence[-SENTENCE:]
        links = list(COPULA.finditer(part))
        values = [value for match in links if (value := _leading(part[match.end() :]))]
        if words and links and not values:
            return part[links[-1].end() :].strip(" *_.$")
        if value := values[-1] if values else _last(part):
            return value
    return None


def _value(text: str) -> str | None:
    """What a sentence that begins behind "the answer is" says."""
    text = text.strip()
    if text.startswith("**") and text.split("\n")[0].count("**") % 2:
        text = text[2:].strip()  # they end what was bold before
    if re.match(r"(?:not|no|neither|never|un\w+)\b", text):
        return text  # what it is not, or that there is none
    if leading := _leading(text):
        return leading
    behind = [value for match in COPULA.finditer(text) if (value := _leading(text[match.end() :]))]
    return behind[0] if behind else _last(text) or (text if len(text) < 80 else None)


def _leading(text: str) -> str | None:
    """A value with which a text begins."""
    text = text.lstrip()
    for pattern in (DRESSED, BOLD):
        if match := pattern.match(text):
            return _list(text, pattern, next(group for group in match.groups() if group), match.end())
    match = PLAIN.match(text)
    if match and "\\" not in text[: match.end() + 1]:
        following = MORE.match(text, match.end())
        return match[0] + (following[0] if following else "")
    return None


def _list(text: str, pattern: re.Pattern[str], first: str, end: int) -> str:
    """The values that stand dressed alike behind the first, with "and", "or" or a comma between."""
    values = [first]
    while following := re.compile(r"\s*(?:,\s*and|,\s*or|,|and|or)\s*").match(text, end):
        match = pattern.match(text, following.end())
        if match is None:
            break
        values.append(next(group for group in match.groups() if group))
        end = match.end()
    return ", ".join(values)


def _last(text: str) -> str | None:
    """The last value in bold, in a formula, or as a number."""
    for pattern in (BOLD, DRESSED):
        found = [next(group for group in match.groups() if group) for match in pattern.finditer(text)]
        if found:
            return found[-1]
    numbers = [match[0] for match in PLAIN.finditer(text)]
    return numbers[-1] if numbers else None
