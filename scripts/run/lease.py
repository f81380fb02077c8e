"""A lease on a piece of work: two jobs never spend a GPU on the same samples or the same checkpoint.

A lease only saves work. If two jobs ever hold the same one (a network that parted, a folder copied by hand), both
write the same content-addressed results, and nothing is damaged.
"""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.run.errors import UserError, printable

LEASES = Path("results/store/leases")
BEAT_SECONDS = 10
DEAD_SECONDS = 120  # without a beat; a file server may show a file's time a minute late
POLL_SECONDS = 2
LONGEST = 10_000  # bytes of a lease


@contextlib.contextmanager
def lease(name: str, work: str) -> Iterator[None]:
    """Hold the lease `name` while the body runs; wait, saying for whom, as long as a live process holds it.

    A holder on the same machine is dead when its process is gone; on another, when its file has not changed for
    `DEAD_SECONDS` of the waiting process' own clock, so that no two clocks are ever compared.

    Args:
        name: name of the lease's file; processes that do the same work give the same.
        work: what is being done, for messages.

    Raises:
        UserError: no lease can be there, or something else is in its place.
    """
    path = LEASES / f"{name}.json"
    mine = json.dumps({"work": work, "job": os.environ.get("SLURM_JOB_ID"), **_this_process()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} is no folder for leases ({error.strerror}): delete it") from None
    if path.parent.stat().st_mode & stat.S_IWOTH:
        raise UserError(f"anybody may write to {path.parent}, and hold up the work: chmod o-w {path.parent}")
    watched, since, told = None, 0.0, False
    while True:
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(mine)
            break
        except FileExistsError:
            state = _state(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): see who owns {path.parent}") from None
        if state is None:  # released just now
            continue
        if state != watched:
            watched, since = state, time.monotonic()
        holder = _holder(state[0])
        if _is_dead(holder, time.monotonic() - since):
            path.unlink(missing_ok=True)
            continue
        if not told:
            print(f"{work}: waits, because {_named(holder)} is doing the same work (lease {path})", flush=True)
            told = True
        time.sleep(POLL_SECONDS)
    released = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, released), daemon=True)
    heart.start()
    try:
        yield
    finally:
        released.set()
        heart.join()
        with contextlib.suppress(OSError, UserError):  # whoever took it away has said so
            if (state := _state(path)) and state[0] == mine:
                path.unlink()


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)


def _this_process() -> dict:
    """Names a process for good: process numbers are used again, and containers share host names."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip() + str(
        Path("/proc/self/ns/pid").readlink()
    )
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": machine, "pid": pid, "ticks": start_ticks(pid)}


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did: no clock that anyone sets. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


class Holder(NamedTuple):
    """What a lease says of the process that holds it."""

    machine: str
    host: str
    pid: int
    ticks: int
    job: str | None


def _state(path: Path) -> tuple[str, int] | None:
    """Content and time of a lease; opened, since only that makes a network file system look again.

    Raises:
        UserError: it is no plain file, which nobody here makes of it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:  # noqa: PTH123
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode):
                return stream.read(LONGEST).decode(errors="replace"), status.st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} is no lease that can be read ({error.strerror}): delete it") from None
    raise UserError(f"{path} is no lease but something else than a plain file: delete it")


def _holder(content: str) -> Holder | None:
    """Who holds a lease; None while its holder is writing it, or where it is damaged."""
    try:
        stated = json.loads(content)
        holder = Holder(*(stated[field] for field in Holder._fields))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    kinds = (str, str, int, int, str | None)
    return holder if all(map(isinstance, holder, kinds)) and 0 < holder.pid < 1 << 31 else None


def _is_dead(holder: Holder | None, silent_seconds: float) -> bool:
    if holder and holder.machine == _this_process()["machine"]:
        return start_ticks(holder.pid) != holder.ticks
    return silent_seconds > DEAD_SECONDS


def _named(holder: Holder | None) -> str:
    if not holder:
        return f"another process, whose lease cannot be read and holds for {DEAD_SECONDS} s after its last change,"
    job = f", Slurm job {holder.job}" if holder.job else ""
    return printable(f"process {holder.pid} on {holder.host}{job}")
