"""A machine that has no process to give: a program is tried again, and costs no more than its own verdict."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.run.errors import UserError
from scripts.score import _driver, _sandbox, livecodebench
from scripts.score._code import Trial, attempt
from scripts.score._sandbox import MachineFullError, Sandbox, check
from tests.test_livecodebench import BAD, GOOD, files  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("sandbox")

RIGHT, SQUARE = "print(int(input()) ** 2)", [("5\n", "25\n"), ("7\n", "49\n")]
# What bubblewrap 0.8 says where clone(2) and fork(2) fail, and what Python says within it.
SAID = [
    "bwrap: Creating new namespace failed: Resource temporarily unavailable",
    "bwrap: Can't fork for pid 1: Resource temporarily unavailable",
    "bwrap: Creating new namespace failed: Cannot allocate memory",
    "BlockingIOError: [Errno 11] Resource temporarily unavailable",
]


# A driver to which the system gives no process so many times.
NO_FORK = """
FORK_WAITS, left, forked = [0.01, 0.01], [{failures}], os.fork


def refused() -> int:
    left[0] -= 1
    if left[0] >= 0:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return forked()


os.fork = refused
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "START_WAITS", [0.01, 0.02])


@pytest.fixture
def bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], Path]:
    """Puts a bubblewrap in the real one's place that fails so many times; a line for each call is in its file."""
    real = _sandbox.shutil.which("bwrap")
    calls = tmp_path / "calls"

    def put(said: str, failures: int) -> Path:
        fake = tmp_path / "bwrap"
        fake.write_text(
            f"#!/bin/sh\necho >> {calls}\n"
            f'if [ $(wc -l < {calls}) -le {failures} ]; then echo "{said}" >&2; exit 1; fi\n'
            f'exec {real} "$@"\n'
        )
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return calls

    return put


def times(calls: Path) -> int:
    return len(calls.read_text().splitlines())


@pytest.mark.parametrize("said", SAID)
def test_what_fails_once_is_tried_again(bubblewrap: Callable[[str, int], Path], said: str):
    calls = bubblewrap(said, 1)
    assert attempt(RIGHT, "", SQUARE) == Trial(True, "ok")
    assert times(calls) == 2


def test_what_always_fails_is_an_error_of_its_program(
    bubblewrap: Callable[[str, int], Path], caplog: pytest.LogCaptureFixture
):
    calls = bubblewrap(SAID[0], 1000)
    assert attempt(RIGHT, "", SQUARE) == Trial(False, "error")
    assert times(calls) == 3
    assert "not judged" in caplog.text and "Resource temporarily unavailable" in caplog.text


def test_other_failures_are_not_tried_again(bubblewrap: Callable[[str, int], Path]):
    calls = bubblewrap("bwrap: No permissions to create new namespace", 1000)
    with pytest.raises(RuntimeError, match="No permissions") as raised:
        attempt(RIGHT, "", SQUARE)
    assert not isinstance(raised.value, MachineFullError)
    assert times(calls) == 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_this_process_cannot_fork_either(monkeypatch: pytest.MonkeyPatch, number: int):
    start, failures = _sandbox.subprocess.Popen, [number, None, *[number] * 3]

    def popen(*arguments: object, **options: object) -> object:
        failure = failures.pop(0)
        if failure:
            raise OSError(failure, os.strerror(failure))
        return start(*arguments, **options)

    monkeypatch.setattr(_sandbox.subprocess, "Popen", popen)
    assert attempt(RIGHT, "", SQUARE) == Trial(True, "ok")
    assert attempt(RIGHT, "", SQUARE) == Trial(False, "error")
    assert not failures


@pytest.mark.parametrize(("failures", "trial"), [(1, Trial(True, "ok")), (1000, Trial(False, "error"))])
def test_no_process_for_an_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failures: int, trial: Trial):
    """Within the sandbox: at the first input or, had the sandbox started long ago, at any other."""
    broken = tmp_path / "driver.py"
    before, start, after = Path(_driver.__file__).read_text(encoding="utf-8").partition('if __name__ == "__main__":')
    broken.write_text(before + NO_FORK.format(failures=failures) + start + after, encoding="utf-8")
    monkeypatch.setattr(_driver, "__file__", str(broken))
    assert attempt(RIGHT, "", SQUARE) == trial


def test_the_stage_goes_on(
    bubblewrap: Callable[[str, int], Path],
    files: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    """Of two programs, one at a time, the first finds no process; the other is judged, and so is the next stage's."""
    digest = next(iter(livecodebench.read_problems([files]))).digest
    monkeypatch.setattr(livecodebench, "check", lambda *_: None)
    monkeypatch.setattr(livecodebench.os, "sched_getaffinity", lambda _: {0})
    bubblewrap(SAID[1], 3)
    pairs = [(f"</think>\n{GOOD}", digest), (f"</think>\n{BAD}", digest)]
    found = livecodebench.judge_all(pairs, [files], unsafe=False)
    assert [(verdict.correct, verdict.correct_final, verdict.status) for verdict in found] == [
        (False, False, "error"),
        (False, False, "ok"),
    ]
    found = livecodebench.judge_all(pairs, [files], unsafe=False)
    assert [(verdict.correct, verdict.status) for verdict in found] == [(True, "ok"), (False, "ok")]


def test_a_full_machine_is_said_in_words_before_any_program(bubblewrap: Callable[[str, int], Path]):
    bubblewrap(SAID[0], 2)
    check(unsafe=False)
    bubblewrap(SAID[0], 1000)
    with pytest.raises(
        UserError, match=r"no process or memory .*Resource temporarily unavailable.*less busy.*ulimit -u"
    ):
        check(unsafe=False)


def test_nothing_stays_open(bubblewrap: Callable[[str, int], Path], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    bubblewrap(SAID[0], 1000)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with pytest.raises(MachineFullError):
            Sandbox(RIGHT)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
