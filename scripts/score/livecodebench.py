"""Scores of `livecodebench`: a program is right if it passes all public and private tests, run in a sandbox.

Reading, running and comparing follow LiveCodeBench (arXiv 2403.07974, lcb_runner/evaluation/testing_util.py), except
that each test starts the program anew, as a script with a process of its own, and that nested tuples count as lists,
too. A program that needs such a process (`quit`, /dev/stdin, `atexit`, a file left open: see `_driver.py`) passes the
contest's judge and fails the published harness, which runs it as a function. Both verdicts come from one run: here
`correct`, too, follows the judge.
"""

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scripts.questions._livecodebench import FILES, read_problems
from scripts.run.errors import UserError
from scripts.run.progress import Progress
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.score._code import Trial, attempt, extract
from scripts.score._sandbox import check
from scripts.score._table import score
from scripts.score._verdict import Verdict, behind_thought


def try_all(programs: dict[str, set[str]], datasets: list[Path], unsafe: bool) -> dict[tuple[str, str], Trial]:
    """Try each program on the tests of its problem, on all cores; (digest of the tests, program) → how it went.

    Problems are read as programs end: in memory are the tests of those that run, and of one more.

    Args:
        programs: digest of the tests → different programs.

    Raises:
        UserError: no problem has tests of such a digest.
    """
    workers = len(os.sched_getaffinity(0))
    free = threading.BoundedSemaphore(workers + 1)
    trials: dict[tuple[str, str], Future[Trial]] = {}
    progress = Progress("livecodebench", sum(map(len, programs.values())), "programs")

    one_at_a_time = threading.Lock()

    def done(_: Future[Trial]) -> None:
        free.release()
        with one_at_a_time:
            progress.add(1)

    with ThreadPoolExecutor(workers) as pool:
        for problem in read_problems(datasets):
            digest = problem.digest
            for source in sorted(programs.get(digest, ())):
                free.acquire()
                trial = pool.submit(attempt, source, problem.function, problem.tests, unsafe=unsafe)
                trial.add_done_callback(done)
                trials[digest, source] = trial
    progress.close()
    missing = programs.keys() - {digest for digest, _ in trials}
    if missing:
        raise UserError(
            f"{', '.join(map(str, datasets))}: tests with the digest {sorted(missing)[0]} are not there; "
            "make the questions anew"
        )
    return {key: trial.result() for key, trial in trials.items()}


def judge_all(pairs: list[tuple[str, str]], datasets: list[Path], unsafe: bool, thinks: bool = True) -> list[Verdict]:
    """Judge (output, digest of the tests) pairs; equal programs for one problem are run once."""
    check(unsafe, [path for folder in datasets for name in FILES if (path := folder / name).is_file()])
    if unsafe:
        logging.getLogger(__name__).warning("unsafe_code: model-written programs run without a sandbox")
    found = [(extract(output), extract(behind_thought(output, thinks)), digest) for output, digest in pairs]
    programs: dict[str, set[str]] = {}
    for whole, behind, digest in found:
        programs.setdefault(digest, set()).update(source for source in (whole, behind) if source is not None)
    trials = try_all({digest: sources for digest, sources in programs.items() if sources}, datasets, unsafe)
    nothing = Trial(False, "no_answer")
    verdicts = []
    for whole, behind, digest in found:
        of_whole, of_final = (trials.get((digest, source), nothing) for source in (whole, behind))
        verdicts.append(
            Verdict(
                correct=of_whole.passed,
                correct_final=of_final.passed,
                extracted=whole,
                status=of_whole.status,
                sandboxed=not unsafe,
                extracted_final=behind,
                status_final=of_final.status,
            )
        )
    return verdicts


@stage
def main(datasets: Inputs, questions: Input, samples: Input, output: Output, settings: Settings) -> None:
    score(
        questions,
        samples,
        output,
        "livecodebench",
        partial(judge_all, datasets=datasets, unsafe=settings["unsafe_code"]),
    )


if __name__ == "__main__":
    main()
