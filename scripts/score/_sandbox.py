"""Model-written Python in bubblewrap: no network, no home, nothing to write to, limits on all that it can use up.

One sandbox holds one program and runs it on one input after another, each in a process of its own that is forked from
one that has compiled it. Measured, a sandbox costs 35 ms and a forked process 9 ms, six of them for the interpreter's
own end; a sandbox per input would cost five times as much, and keep a program from nothing but its own earlier inputs.

Only output leaves: what is right is never inside, and whoever compares holds bytes that are bounded and may be hostile.

The kernel refuses further processes (`_seccomp.py`) and bounds the one there is (`_driver.py`: CPU time, address space,
files, output). Threads and resident memory it does not bound alike on all clusters: RLIMIT_NPROC is not applied to
root, and on older kernels counts the user's other jobs; cgroups need a delegated tree. So this process counts them 20
times a second and behind each input, and beyond the limit kills all of the PID namespace.
"""

import errno
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from scripts.run.errors import UserError
from scripts.score import _driver, _packages
from scripts.score._seccomp import seccomp_filter

TASKS = 128  # threads, with the few processes that are ours
MEMORY = 1 << 30  # bytes resident, summed over the processes of a sandbox
START_SECONDS = 60  # generous: it is the machine that is slow then, not the program
WATCH_SECONDS = 0.05
# What a machine answers that is full for the moment, as a shared node often is; and seconds behind each attempt.
FULL = {errno.EAGAIN, errno.ENOMEM, errno.ENFILE}
START_WAITS = [0.1, 0.5, 2, 4]

PROGRAM, PACKAGES = "/tmp/program.py", "/packages"  # noqa: S108 - inside
# Constant hashes: the order of a set, and with it a verdict, is the same at each run.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
CURE = "or set `unsafe_code: true` in the study's config, which runs model-written programs unprotected"


log = logging.getLogger(__name__)


class MachineFullError(RuntimeError):
    """The machine had no process or memory for a sandbox, not even a while later: nothing is known of the program."""


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
            the machine does; for a program that computes on an idle machine they are the same.
        unsafe: leave bubblewrap out; limits and watching remain.

    Raises:
        MachineFullError: there was no process or memory for it, in none of several attempts.
        RuntimeError: the sandbox did not start, for another reason that is not the program's.
    """

    def __init__(self, source: str, function: str = "", seconds: int = 6, unsafe: bool = False) -> None:
        self.wall_seconds = 2 * seconds
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
                        *([] if unsafe else _bubblewrap(program.fileno())),
                        *(os.path.realpath(sys.executable), "-s", "-S", "-P", "-B"),
                        _driver.__file__ if unsafe else "/driver.py",
                        *(str(theirs.fileno()), str(call_filter.fileno())),
                        f"/dev/fd/{program.fileno()}" if unsafe else PROGRAM,
                        str(seconds),
                        *([function] if function else []),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=messages,
                    pass_fds=[theirs.fileno(), program.fileno(), call_filter.fileno()],
                    env=ENVIRONMENT | {"PYTHONPATH": str(_packages.site_packages()) if unsafe else PACKAGES},
                    start_new_session=True,
                )
            except OSError as error:
                self.control.close()
                raise MachineFullError(error) if error.errno in FULL else error from None
            theirs.close()
            started = self._receive(START_SECONDS)
            if started != _driver.STARTED:
                self.__exit__(None, None, None)
                messages.seek(0)
                said = messages.read(2000).decode(errors="replace").strip() or "it did not start"
                raise (MachineFullError if any(os.strerror(n) in said for n in FULL) else RuntimeError)(said)
        self.compiled = self._receive(START_SECONDS) == _driver.COMPILED

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
            MachineFullError: there was no process for it, in none of several attempts.
        """
        if not self.compiled:
            return Outcome("compile_error")
        with _memory_file(data) as stdin, _memory_file() as output:
            try:
                socket.send_fds(self.control, [b"."], [stdin.fileno(), output.fileno()])
            except OSError:
                return Outcome("runtime_error")  # it has killed the process that would have run it
            reply = self._receive(self.wall_seconds)
            if isinstance(reply, str):
                return Outcome(reply)
            if reply == _driver.NOT_FORKED:
                raise MachineFullError("no process for the program")
            if excess := self._excess():
                return Outcome(excess)
            found = os.pread(output.fileno(), _driver.OUTPUT_LIMIT, 0)
        code = int.from_bytes(reply, "little", signed=True) if len(reply) == 4 else _driver.FAILED
        reasons = {
            0: "ok",
            _driver.OUT_OF_MEMORY: "memory_limit",
            -signal.SIGXCPU: "timeout",
            -signal.SIGKILL: "timeout",  # of one that had ignored the signal before
            -signal.SIGXFSZ: "output_limit",
        }
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


def check(unsafe: bool) -> None:
    """See that programs can be run here.

    Raises:
        UserError: there is no bubblewrap, or it cannot make a sandbox.
    """
    if not unsafe and not shutil.which("bwrap"):
        raise UserError(f"no bubblewrap for model-written programs: apt-get install bubblewrap, {CURE}")
    try:
        with Sandbox("print(input()[::-1])", unsafe=unsafe) as sandbox:
            outcome, (tasks, _) = sandbox.run(b"abc"), usage(sandbox.process.pid)
            seen = tasks >= (1 if unsafe else 3)  # bubblewrap twice and the driver, or the driver alone
            problem = "" if outcome == Outcome("ok", b"cba\n") and seen else f"{outcome}, {tasks} tasks"
    except MachineFullError as error:
        raise UserError(
            f"this machine has no process or memory to spare for model-written programs ({error}): run again when it "
            "is less busy, or raise the limit (`ulimit -u`, TasksMax, pids.max)"
        ) from None
    except (OSError, RuntimeError) as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"model-written programs cannot run in bubblewrap here ({problem}): allow unprivileged user namespaces "
            f"(in a container, its seccomp profile must), {CURE}"
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


def _bubblewrap(program: int) -> list[str]:
    """The command that runs another in a sandbox whose files are the system's and the interpreter's, read-only.

    The open file `program` is put at `PROGRAM`, packages into `PACKAGES`.

    There is no /proc and no /sys, and even /tmp cannot be written to: then nothing needs a size limit, for which
    Debian 11, Ubuntu 22.04 and RHEL 9 have a bubblewrap too old.
    """
    system = []
    for path in map(Path, ("/lib", "/lib32", "/lib64", "/bin", "/sbin")):
        if path.is_symlink():  # into /usr
            system += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            system += ["--ro-bind", str(path), str(path)]
    return [
        *(shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
        *("--uid", "65534", "--gid", "65534", "--hostname", "sandbox", "--cap-drop", "ALL"),
        *("--ro-bind", "/usr", "/usr", *system),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *("--ro-bind", sys.base_prefix, sys.base_prefix),
        *(word for folder in _packages.folders() for word in ("--ro-bind", str(folder), f"{PACKAGES}/{folder.name}")),
        *("--ro-bind", _driver.__file__, "/driver.py"),
        *("--dev-bind", "/dev/urandom", "/dev/urandom"),
        # Of standard input and output the names alone, for whoever asks whether they exist: the driver opens the files.
        *(word for path in ("/dev/null", *_driver.STANDARD) for word in ("--dev-bind", "/dev/null", path)),
        *("--ro-bind-data", str(program), PROGRAM),
        *("--remount-ro", "/", "--chdir", str(Path(PROGRAM).parent)),
    ]
