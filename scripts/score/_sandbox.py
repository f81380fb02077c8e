"""Model-written Python in bubblewrap: no network, no home, nothing to write to, limits on all that it can use up.

One sandbox holds one program and runs it on one input after another, each in a process of its own that is forked from
one that has compiled it. Measured, a sandbox costs 35 ms and a forked process 9 ms, six of them for the interpreter's
own end; a sandbox per input would cost five times as much, and keep a program from nothing but its own earlier inputs.

Only output leaves: what is right is never inside, and whoever compares holds bytes that are bounded and may be hostile.

The kernel refuses further processes (`_seccomp.py`) and bounds the one there is (`_driver.py`: CPU time, address space,
files, output, threads). Resident memory it does not bound on all clusters, for cgroups need a delegated tree; threads
only of root's programs, which have a user of their own, and from Linux 5.14 on, which counts by user namespace. So this
process counts both 20 times a second and behind each input, and beyond the limit kills all of the PID namespace.

A verdict is given on what a program did. What the machine did to it (no process to give, killed for memory) is told
apart, and is no verdict: the driver says how each process ended, and its own end is never the program's.
"""

import contextlib
import errno
import logging
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from scripts.run.errors import UserError
from scripts.score import _bubblewrap, _driver, _packages
from scripts.score._seccomp import seccomp_filter

TASKS = 128  # threads, with the few processes that are ours
MEMORY = 1 << 30  # bytes resident, summed over the processes of a sandbox
START_SECONDS = 60  # generous: it is the machine that is slow then, not the program
WAIT_SECONDS = 30  # that a program may wait in all beside computing, as long as it computed
WATCH_SECONDS = 0.05
# What a machine answers that is full for the moment, as a shared node often is; and seconds behind each attempt.
FULL = {errno.EAGAIN, errno.ENOMEM, errno.ENFILE}
START_WAITS = [0.1, 0.5, 2, 4]

# Constant hashes: the order of a set, and with it a verdict, is the same at each run.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
CURE = "or set `unsafe_code: true` in the study's config, which runs model-written programs unprotected"

ALLOW = {
    False: "allow unprivileged user namespaces (in a container, its seccomp profile must)",
    True: "root needs the capability CAP_SYS_ADMIN for it: add it to the container, or run as an ordinary user",
}
KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])

log = logging.getLogger(__name__)


class MachineFullError(RuntimeError):
    """The machine had no process or memory for a sandbox, not even a while later: nothing is known of the program."""


class LostError(MachineFullError):
    """The machine ended a process of the sandbox, as it does for want of memory: nothing is known of the program."""


@dataclass(frozen=True)
class Outcome:
    """`status` is ok, timeout, runtime_error, compile_error, memory_limit, thread_limit or output_limit."""

    status: str
    output: bytes = b""


class Sandbox:
    """A program, ready to be run on inputs until one of them ends other than `ok`; a context manager.

    Args:
        source: the program.
        function: what of it to call (`Solution.function`, or a plain function); "" runs it as a script.
        seconds: CPU time for each input. Wall time may be twice that, so that a verdict does not depend on what else
            the machine does; for a program that computes on an idle machine they are the same. Over all inputs it may
            wait for as long as it computed and `WAIT_SECONDS` more: who sleeps does not hold the judge.
        unsafe: leave bubblewrap out; limits and watching remain.

    Raises:
        MachineFullError: there was no process or memory for it, in none of several attempts, or it was lost.
        RuntimeError: the sandbox did not start, for another reason that is not the program's.
    """

    def __init__(self, source: str, function: str = "", seconds: int = 6, unsafe: bool = False) -> None:
        self.seconds = seconds
        self.spare = WAIT_SECONDS
        for wait in [*START_WAITS, None]:
            try:
                self._start(source, function, seconds, unsafe)
                break
            except MachineFullError as error:
                if wait is None:
                    raise
                log.warning("a sandbox did not start (%s): once more in %s s", error, wait)
                time.sleep(wait)

    def _start(self, source: str, function: str, seconds: int, unsafe: bool) -> None:
        user = 0 if unsafe else _bubblewrap.spare_user()
        # Fewer than who looks allows, who sees bubblewrap's own, too: then one program ends one way at each run.
        tasks = TASKS - 8 if user or (KERNEL >= (5, 14) and not unsafe) else 0
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with (
            theirs,
            _memory_file(source.encode(errors="surrogatepass")) as program,
            _memory_file(seccomp_filter()) as call_filter,
            _memory_file() as messages,
        ):
            try:
                self.process = subprocess.Popen(
                    [
                        *([] if unsafe else _bubblewrap.command(program.fileno(), user)),
                        *(os.path.realpath(sys.executable), "-s", "-S", "-P", "-B"),
                        _driver.__file__ if unsafe else "/driver.py",
                        *(str(theirs.fileno()), str(call_filter.fileno())),
                        f"/dev/fd/{program.fileno()}" if unsafe else str(_bubblewrap.PROGRAM),
                        *(str(seconds), str(tasks), str(user)),
                        *([function] if function else []),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=messages,
                    pass_fds=[theirs.fileno(), program.fileno(), call_filter.fileno()],
                    env=ENVIRONMENT
                    | {"PYTHONPATH": str(_packages.site_packages() if unsafe else _bubblewrap.PACKAGES)},
                    start_new_session=True,
                )
            except OSError as error:
                self.control.close()
                raise MachineFullError(error) if error.errno in FULL else error from None
            theirs.close()
            started = self._receive(START_SECONDS)
            if started != _driver.STARTED:
                if started == b"":  # it ends by itself: how, is lost if it is killed first
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(timeout=5)
                killed = self.process.poll() in {-signal.SIGKILL, 128 + signal.SIGKILL}
                self.__exit__(None, None, None)
                messages.seek(0)
                said = messages.read(2000).decode(errors="replace").strip() or "it did not start"
                full = killed or any(os.strerror(number) in said for number in FULL)
                raise (MachineFullError if full else RuntimeError)(said)
        compiled = self._receive(START_SECONDS)
        if compiled == _driver.NOT_FORKED or not compiled:
            self.__exit__(None, None, None)
            raise MachineFullError("no process for the program") if compiled else LostError("lost while compiling")
        self.compiled = compiled == _driver.COMPILED

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all that the program has started, before returning."""
        self.control.close()
        for child in _children(self.process.pid):  # the first process of the PID namespace: all others die with it
            os.kill(child, signal.SIGKILL)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, data: bytes) -> Outcome:
        """Run the program on one input. After any other status than ok the sandbox is of no more use.

        Raises:
            MachineFullError: there was no process for it, in none of several attempts, or it was lost.
        """
        if not self.compiled:
            return Outcome("compile_error")
        began = time.monotonic()
        with _memory_file(data) as stdin, _memory_file() as output:
            try:
                socket.send_fds(self.control, [b"."], [stdin.fileno(), output.fileno()])
            except OSError:
                raise LostError("lost between two inputs") from None
            reply = self._receive(self.seconds + min(self.seconds, self.spare))
            if isinstance(reply, str):
                return Outcome(reply)
            if reply == _driver.NOT_FORKED:
                raise MachineFullError("no process for the program")
            if not reply:
                raise LostError("lost while the program ran")
            if excess := self._excess():
                return Outcome(excess)
            found = os.pread(output.fileno(), _driver.OUTPUT_LIMIT, 0)
        code, computed = struct.unpack(_driver.ENDED, reply)
        waited = time.monotonic() - began - computed
        self.spare = max(0, self.spare + computed - waited)
        if code == -signal.SIGXCPU or computed >= self.seconds:  # also of one that ignores the signal
            return Outcome("timeout", found)
        if code == -signal.SIGKILL:  # which within the sandbox only the program itself could send, in vain
            raise LostError("the machine killed the program")
        reasons = {0: "ok", _driver.OUT_OF_MEMORY: "memory_limit", -signal.SIGXFSZ: "output_limit"}
        return Outcome(reasons.get(code, "runtime_error"), found)

    def _receive(self, seconds: float) -> bytes | str:
        """The next message (empty: the other end is gone), or the limit that was exceeded while waiting."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.control], [], [], WATCH_SECONDS)[0]:
                try:
                    return self.control.recv(100)
                except OSError:
                    return b""
            if excess := self._excess():
                return excess
        return "timeout"

    def _excess(self) -> str:
        tasks, memory = usage(self.process.pid)
        return "thread_limit" if tasks > TASKS else "memory_limit" if memory > MEMORY else ""


def check(unsafe: bool, secret: Sequence[Path] = ()) -> None:
    """See that programs can be run here, and see no file of `secret`.

    Raises:
        UserError: there is no bubblewrap, it cannot make a sandbox, or one is not closed.
    """
    if not unsafe and not shutil.which("bwrap"):
        raise UserError(f"no bubblewrap for model-written programs: apt-get install bubblewrap, {CURE}")
    looked = [] if unsafe else [str(path.resolve()) for path in secret]
    packages = [str(_bubblewrap.PACKAGES / folder.name) for folder in _packages.folders() if not unsafe]
    program = (
        "import os\nprint(input()[::-1])\n"
        f"print(*[path for path in {looked} if os.path.lexists(path)])\n"
        f"print(*[path for path in {packages} if not os.access(path, os.R_OK | os.X_OK)])"
    )
    try:
        with Sandbox(program, unsafe=unsafe) as sandbox:
            outcome, (tasks, _) = sandbox.run(b"abc"), usage(sandbox.process.pid)
            seen = tasks >= (1 if unsafe else 3)  # bubblewrap twice and the driver, or the driver alone
            said, *found = outcome.output.decode(errors="replace").split("\n")
            problem = "" if outcome.status == "ok" and said == "cba" and seen else f"{outcome}, {tasks} tasks"
            if not problem and found[0]:
                raise UserError(f"{found[0]}: programs can read it in the sandbox: let it lie elsewhere")
            if not problem and found[1]:
                problem = f"whoever is not its owner may not read {found[1]}: chmod -R go+rX {sys.prefix}"
    except MachineFullError as error:
        raise UserError(
            f"this machine has no process or memory to spare for model-written programs ({error}): run again when it "
            "is less busy, or raise the limit (`ulimit -u`, TasksMax, pids.max)"
        ) from None
    except (OSError, RuntimeError) as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"model-written programs cannot run in bubblewrap here ({problem}): {ALLOW[os.geteuid() == 0]}, {CURE}"
        )


def usage(root: int) -> tuple[int, int]:
    """Threads and resident bytes of a process and its descendants; counting stops beyond `TASKS`."""
    pending, tasks, pages = [root], 0, 0
    while pending and tasks <= TASKS:
        folder = Path("/proc", str(pending.pop()))
        try:
            tasks += sum(1 for _ in (folder / "task").iterdir())
            pages += int((folder / "statm").read_text(encoding="utf-8").split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if tasks <= TASKS:
            pending += _children(int(folder.name))
    return tasks, pages * os.sysconf("SC_PAGE_SIZE")


def _children(process: int) -> list[int]:
    found = []
    try:
        for thread in Path("/proc", str(process), "task").iterdir():
            found += [int(child) for child in (thread / "children").read_text(encoding="utf-8").split()]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended meanwhile
    return found


def _memory_file(content: bytes = b"") -> BinaryIO:
    """An open file without a name, at its beginning."""
    stream = os.fdopen(os.memfd_create("file"), "w+b")
    stream.write(content)
    stream.seek(0)
    return stream
