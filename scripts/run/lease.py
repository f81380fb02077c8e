"""A lease on a piece of work: two jobs never spend a GPU on the same samples or the same checkpoint.

A lease only saves work. If two jobs ever hold the same one (a network that parted, a folder copied by hand), both
write the same content-addressed results, and nothing is damaged.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

LEASES = Path("results/store/leases")
BEAT_SECONDS = 10
DEAD_SECONDS = 120  # without a beat; a file server may show a file's time a minute late
POLL_SECONDS = 2


@contextlib.contextmanager
def lease(name: str, work: str) -> Iterator[None]:
    """Hold the lease `name` while the body runs; wait, saying for whom, as long as a live process holds it.

    A holder on the same machine is dead when its process is gone; on another, when its file has not changed for
    `DEAD_SECONDS` of the waiting process' own clock, so that no two clocks are ever compared.

    Args:
        name: name of the lease's file; processes that do the same work give the same.
        work: what is being done, for messages.
    """
    path = LEASES / f"{name}.json"
    mine = json.dumps({"work": work, "job": os.environ.get("SLURM_JOB_ID"), **_this_process()})
    path.parent.mkdir(parents=True, exist_ok=True)
    watched, since, told = None, 0.0, False
    while True:
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(mine)
            break
        except FileExistsError:
            state = _state(path)
        if state is None:  # released just now
            continue
        if state != watched:
            watched, since = state, time.monotonic()
        if _is_dead(state[0], time.monotonic() - since):
            path.unlink(missing_ok=True)
            continue
        if not told:
            print(f"{work}: waits, because {_named(state[0])} is doing the same work (lease {path})", flush=True)
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
        with contextlib.suppress(FileNotFoundError):
            if path.read_text(encoding="utf-8") == mine:
                path.unlink()


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


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


def _state(path: Path) -> tuple[str, int] | None:
    """Content and time of a lease; opened, since only that makes a network file system look again."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(), os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _is_dead(content: str, silent_seconds: float) -> bool:
    holder = json.loads(content) if content else {}  # empty while its holder is writing it
    if holder.get("machine") == _this_process()["machine"]:
        return start_ticks(holder["pid"]) != holder["ticks"]
    return silent_seconds > DEAD_SECONDS


def _named(content: str) -> str:
    holder = json.loads(content) if content else {}
    if not holder:
        return "another process"
    job = f", Slurm job {holder['job']}" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}"
