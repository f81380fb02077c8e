"""One process at a time does a piece of work; the dead hold nothing."""

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest

from scripts.run import lease as module
from scripts.run.errors import UserError
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


HOLDER = {"machine": "here", "host": "h", "pid": 1, "ticks": 1, "job": None}
DAMAGED = {
    "garbage": b"{",
    "no text": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "a text": b'"lease"',
    "nested": b"[" * 9000,
    "no process": json.dumps({k: v for k, v in HOLDER.items() if k != "pid"}).encode(),
    "no machine": json.dumps({k: v for k, v in HOLDER.items() if k != "machine"}).encode(),
    "a process that is a text": json.dumps(HOLDER | {"pid": "../self"}).encode(),
    "a process below zero": json.dumps(HOLDER | {"pid": -1}).encode(),
    "a process too large": json.dumps(HOLDER | {"pid": 1 << 80}).encode(),
    "a process that is no whole number": json.dumps(HOLDER | {"pid": 1.5}).encode(),
    "a start that is a list": json.dumps(HOLDER | {"ticks": []}).encode(),
    "a job that is a list": json.dumps(HOLDER | {"job": ["x"]}).encode(),
    "a host that is an object": json.dumps(HOLDER | {"host": {}}).encode(),
    "far too much": json.dumps(HOLDER | {"host": "x" * 10_000_000}).encode(),
    "NaN": b'{"pid": NaN}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_lease_ends_as_one_without_a_beat(
    leases: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
):
    """It may be half written; also where it names this machine."""
    monkeypatch.setattr(module, "DEAD_SECONDS", 0.2)
    leases.mkdir()
    content = DAMAGED[name].replace(b'"here"', json.dumps(module._this_process()["machine"]).encode())
    (leases / "work.json").write_bytes(content)
    with lease("work", "generate x"):
        pass
    said = capsys.readouterr().out
    assert "another process, whose lease cannot be read and holds for 0.2 s" in said and "leases/work.json" in said
    assert not list(leases.iterdir())


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


PLACES = {
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a lease": lambda path: ((path.parent / "other").write_text("{}"), path.symlink_to("other")),
    "a link to a file without end": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": bind,
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_is_named(leases: Path, name: str):
    """No hang, no endless loop; it stays, for it may be somebody's."""
    leases.mkdir()
    PLACES[name](leases / "work.json")
    before = sorted(leases.iterdir())
    with pytest.raises(UserError, match=r"^/.*/leases/work.json is no lease .*: delete it$"), lease("work", "test"):
        pass
    assert sorted(leases.iterdir()) == before


def test_what_takes_the_place_of_a_held_lease_is_left_alone(leases: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    other = leases.parent / "other"
    other.write_text("")
    os.utime(other, (1, 1))
    with lease("work", "test"):
        (leases / "work.json").unlink()
        (leases / "work.json").symlink_to(other)
        time.sleep(0.1)
    assert (leases / "work.json").is_symlink()
    assert other.stat().st_mtime == 1


def test_folders_of_leases_that_are_anybodys_are_refused(leases: Path):
    leases.mkdir()
    leases.chmod(0o777)
    with (
        pytest.raises(UserError, match=f"anybody may write to {leases}, .*: chmod o-w {leases}"),
        lease("work", "test"),
    ):
        pass
    leases.rmdir()
    leases.write_text("")
    with pytest.raises(UserError, match=f"{leases} is no folder for leases .*: delete it"), lease("work", "test"):
        pass


def test_names_of_holders_steer_no_terminal(
    leases: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(module, "DEAD_SECONDS", 0.2)
    leases.mkdir()
    (leases / "work.json").write_text(json.dumps(HOLDER | {"host": "\x1b[2Jh\u202e", "job": "\x07"}))
    with lease("work", "test"):
        pass
    assert "process 1 on \\x1b[2Jh\\u202e, Slurm job \\x07 is doing" in capsys.readouterr().out
