"""One process at a time does a piece of work; the dead hold nothing."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from scripts.run import lease as module
from scripts.run.lease import lease

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "LEASES", tmp_path / "leases")
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    return tmp_path / "leases"


def hold(seconds: float, held: multiprocessing.Event) -> None:
    with lease("work", "test"):
        held.set()
        time.sleep(seconds)


def holder(seconds: float) -> multiprocessing.Process:
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(seconds, held))
    process.start()
    assert held.wait(10)
    return process


def test_a_lease_ends_with_its_body(leases: Path):
    with pytest.raises(ValueError, match="within"), lease("work", "test"):
        assert (leases / "work.json").exists()
        raise ValueError("within")
    assert not list(leases.iterdir())


def test_the_second_waits_and_names_the_first(capsys: pytest.CaptureFixture):
    process = holder(1)
    with lease("work", "generate x"):
        process.join(0.5)  # it ends after it has given the lease up
        assert process.exitcode == 0
    assert f"generate x: waits, because process {process.pid} on " in capsys.readouterr().out


def test_another_piece_of_work_does_not_wait(capsys: pytest.CaptureFixture):
    process = holder(5)
    with lease("other work", "test"):
        assert process.is_alive()
    process.kill()
    process.join()
    assert not capsys.readouterr().out


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_holds_nothing(reaped: bool):
    process = holder(60)
    process.kill()
    if reaped:
        process.join()
    started = time.monotonic()
    with lease("work", "test"):
        assert time.monotonic() - started < 10
    process.join()


def test_a_reused_process_number_holds_nothing(leases: Path):
    process = holder(60)
    path = leases / "work.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ticks": 1}))
    with lease("work", "test"):
        process.kill()
    process.join()


@pytest.mark.parametrize("content", ["", '{"host": "elsewhere", "machine": "other", "pid": 1, "ticks": 1, "job": "7"}'])
def test_a_holder_elsewhere_is_dead_when_its_file_rests(leases: Path, monkeypatch: pytest.MonkeyPatch, content: str):
    """By the waiting process' own clock: the file's time may lie anywhere."""
    monkeypatch.setattr(module, "DEAD_SECONDS", 0.5)
    leases.mkdir()
    (leases / "work.json").write_text(content)
    started = time.monotonic()
    with lease("work", "test"):
        assert 0.4 < time.monotonic() - started < 10


def test_a_holder_elsewhere_lives_while_its_file_changes(leases: Path, monkeypatch: pytest.MonkeyPatch):
    """As the beat of a holder does, whose machine this process is made to take for another."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(module, "DEAD_SECONDS", 0.5)
    process = holder(2)
    own = module._this_process()
    monkeypatch.setattr(module, "_this_process", lambda: own | {"machine": "another"})
    started = time.monotonic()
    with lease("work", "test"):
        assert time.monotonic() - started > 1.5
    process.join()
