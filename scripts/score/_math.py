"""Mathematical answers by the math-verify library, in a worker process that can be killed.

A sample is judged twice: `correct` searches the whole output, as the study does, so that an answer found in a
cut-off thought counts; `correct_final` searches only what follows `</think>`.
"""

import logging
import resource
from dataclasses import dataclass

import psutil
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from pebble import ProcessPool

from scripts.run.progress import Progress

SECONDS_PER_SAMPLE = 10
MEMORY = 3 << 30  # bytes of address space for an answer; 10^{10^{10}} has more digits than any memory holds
EXTRACTION = [LatexExtractionConfig(), ExprExtractionConfig()]


@dataclass(frozen=True)
class Verdict:
    """`extracted` is None without an answer; `status` and `sandboxed` as in the scores' file."""

    correct: bool
    correct_final: bool
    extracted: str | None
    status: str
    sandboxed: bool | None = None


def judge(output: str, gold: str) -> Verdict:
    """Judge one output against the published answer, in this process and without a time limit."""
    # math-verify's own limits rest on signals and cannot stop a computation inside C code.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    truth = parse(f"\\boxed{{{gold}}}", EXTRACTION, parsing_timeout=None)
    answer = parse(output, EXTRACTION, parsing_timeout=None)
    _, closed, final = output.rpartition("</think>")
    final_answer = parse(final, EXTRACTION, parsing_timeout=None) if closed else []
    return Verdict(
        correct=verify(truth, answer, timeout_seconds=None),
        correct_final=verify(truth, final_answer, timeout_seconds=None),
        extracted=str(answer[-1]) if answer else None,
        status="ok" if answer else "no_answer",
    )


def judge_all(pairs: list[tuple[str, str]], seconds: float = SECONDS_PER_SAMPLE) -> list[Verdict]:
    """Judge (output, gold) pairs; one that takes longer than `seconds` is killed and says so."""
    verdicts = []
    progress = Progress("judged", len(pairs), "samples")
    with ProcessPool(max_workers=1, initializer=_limit_memory) as pool:
        results = pool.map(judge, *zip(*pairs, strict=True), timeout=seconds).result()
        for _ in pairs:
            try:
                verdicts.append(next(results))
            except TimeoutError:
                verdicts.append(Verdict(False, False, None, "timeout"))
            except Exception as error:  # noqa: BLE001 - what a hostile output provokes is its own verdict
                logging.getLogger(__name__).warning("a sample could not be judged: %r", error)
                verdicts.append(Verdict(False, False, None, "error"))
            progress.add(1)
    progress.close()
    return verdicts


def _limit_memory() -> None:
    """Beside what this process has mapped, which it shares with the one that started it."""
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
