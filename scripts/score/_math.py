"""Mathematical answers: by the study's rule, and as a careful human would judge what stands behind the thought.

Each verdict is found in a worker process that can be killed, under a limit of its own: a thought that takes long to
read cannot spoil a quick answer. Where the two rules differ, tests/answers.py names the difference.
"""

import logging
import resource

import psutil
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from pebble import ProcessPool

from scripts.run.progress import Progress
from scripts.score._equal import is_list, is_text, readable, same
from scripts.score._stated import boxed, written
from scripts.score._verdict import Verdict, behind_thought

SECONDS = 10  # for each verdict
MEMORY = 3 << 30  # bytes of address space for an answer; 10^{10^{10}} has more digits than any memory holds
# As the study's code has it: boxes before anything else, then the rightmost of the others.
EXTRACTION = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

Half = tuple[bool, str | None, str]  # right, extracted, status


def by_study(output: str, gold: str) -> Half:
    """The study's rule, with math-verify for the ancestor of it that the study used."""
    # math-verify's own limits rest on signals and cannot stop a computation inside C code.
    truth = parse(f"\\boxed{{{gold}}}", EXTRACTION, parsing_timeout=None)
    answer = parse(output, EXTRACTION, parsing_timeout=None)
    if not answer:
        return False, None, "no_answer"
    status = "unparsed" if all(isinstance(found, str) for found in answer) else "ok"
    return verify(truth, answer, timeout_seconds=None), str(answer[-1]), status


def by_reader(final: str, gold: str) -> Half:
    """What a careful human would say: the last box counts, or where there is none the answer as the text states it.

    Several boxes together are an answer only where the published one is a list.
    """
    found = boxed(final)
    answer = found[0] if found else written(final, is_text(gold))
    if answer is None:
        return False, None, "no_answer"
    if same(gold, answer):
        return True, answer.strip(), "ok"
    if found and found[1] != answer and is_list(gold):
        return same(gold, found[1]), found[1], "ok" if readable(found[1], gold) else "unparsed"
    return False, answer.strip(), "ok" if readable(answer, gold) else "unparsed"


RULES = {"study": by_study, "reader": by_reader}


def apply(rule: str, text: str, gold: str) -> Half:
    """One half of a verdict, in this process and without a time limit."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return RULES[rule](text, gold)


def judge(output: str, gold: str, thinks: bool = True) -> Verdict:
    """Judge one output against the published answer, in this process and without a time limit."""
    return _verdict(apply("study", output, gold), apply("reader", behind_thought(output, thinks), gold))


def judge_all(pairs: list[tuple[str, str]], seconds: float = SECONDS, thinks: bool = True) -> list[Verdict]:
    """Judge (output, gold) pairs; what takes longer than `seconds` is killed and says so, each verdict by itself."""
    tasks = [
        task
        for output, gold in pairs
        for task in (("study", output, gold), ("reader", behind_thought(output, thinks), gold))
    ]
    halves = _apply_all(tasks, seconds)
    return [_verdict(*both) for both in zip(halves[::2], halves[1::2], strict=True)]


def _apply_all(tasks: list[tuple[str, str, str]], seconds: float) -> list[Half]:
    halves: list[Half] = []
    progress = Progress("judged", len(tasks), "verdicts")
    with ProcessPool(max_workers=1, initializer=_limit_memory) as pool:
        results = pool.map(apply, *zip(*tasks, strict=True), timeout=seconds).result()
        for _ in tasks:
            try:
                halves.append(next(results))
            except TimeoutError:
                halves.append((False, None, "timeout"))
            except Exception as error:  # noqa: BLE001 - what a hostile output provokes is its own verdict
                logging.getLogger(__name__).warning("a sample could not be judged: %r", error)
                halves.append((False, None, "error"))
            progress.add(1)
    progress.close()
    return halves


def _verdict(study: Half, reader: Half) -> Verdict:
    return Verdict(study[0], reader[0], study[1], study[2], extracted_final=reader[1], status_final=reader[2])


def _limit_memory() -> None:
    """Beside what this process has mapped, which it shares with the one that started it."""
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
