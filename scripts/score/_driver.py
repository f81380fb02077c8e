"""What runs inside the sandbox: one program, in a fresh process for each input.

Nothing here judges. The caller holds the clock and the right answers; it sends two open files for each input, one to
read from and one to write to, and is told how the process ended. A program that takes over this process gains no more
than the right to fail. It may not signal this process, and is compiled in another one first: so if this one ends
without a word, the machine has ended it.

A program finds what `python program.py` would give it: its own `__main__`, name and arguments, `quit` and `exit`,
standard input and output by their names in /dev, and an end at which threads are awaited, `atexit` is heard and open
files are written out. LiveCodeBench's own harness runs programs as functions and fails those that need one of these;
contests' judges pass them.

python _driver.py SOCKET FILTER PROGRAM SECONDS TASKS USER [FUNCTION], the first two as numbers of open files
"""

import builtins
import ctypes
import errno
import io
import json
import os
import resource
import signal
import site
import socket
import struct
import sys
import time
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

ADDRESS_SPACE = 4 << 30  # stacks of threads are reserved, not used: what is really used, the caller bounds
STACK = 8 << 20  # whatever the shell's limit is: deep recursion must not depend on it
OPEN_FILES = 64
OUTPUT_LIMIT = 32 << 20  # bytes; several times the longest right answer
STARTED, COMPILED, NOT_COMPILED, NOT_FORKED = b"started", b"compiled", b"not compiled", b"not forked"
FORK_WAITS = [0.1, 0.4, 1, 0]  # seconds behind each attempt; the machine may be full for a moment
FAILED, OUT_OF_MEMORY = 1, 2  # exit codes
ENDED = "=if"  # what is sent of a process: its exit code, or the number of its signal below zero; seconds of CPU time
OWN_PROCESS = struct.pack("=I", 0x7FFFFFF0)  # stands in the filter for the number of the process that is filtered
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2

# Elsewhere these names lead into /proc, which is not here.
STANDARD = {
    path: number
    for number, name in enumerate(("stdin", "stdout", "stderr"))
    for path in (f"/dev/{name}", f"/dev/fd/{number}")
}

# What LiveCodeBench (MIT; lcb_runner/evaluation/testing_util.py) puts before every program, in its order: later
# modules hide names of earlier ones, `builtins` brings back those that must not change.
STAR_IMPORTS = [
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
]


def become(user: int) -> None:
    """Give up all rights for those of a user of this number."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def limit(tasks: int) -> None:
    """Set limits that hold for this process and each of its children; but for the stack's none can be raised again.

    Args:
        tasks: processes and threads; 0: no limit, where the kernel counts what is not the program's.
    """
    for kind, value in [
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_FSIZE, OUTPUT_LIMIT),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        *([(resource.RLIMIT_NPROC, tasks)] if tasks else []),
    ]:
        resource.setrlimit(kind, (value, value))
    # Programs that recurse deeply raise it themselves, up to what the machine allows; memory is bounded anyway.
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (STACK if hard == resource.RLIM_INFINITY else min(STACK, hard), hard))
    sys.setrecursionlimit(50000)  # this and the next as LiveCodeBench
    sys.set_int_max_str_digits(50000)


class Filter(ctypes.Structure):
    """`struct sock_fprog` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(instructions: bytes) -> None:
    """Let the kernel filter the system calls of this process from here on."""
    instructions = instructions.replace(OWN_PROCESS, struct.pack("=I", os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = Filter(len(instructions) // 8, instructions)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(wanted)
    ):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def open_standard_files_by_name() -> None:
    """Let Python open `STANDARD` as the files 0, 1 and 2 of the process, the first from its beginning.

    Opened so, standard output is never cut: neither is a pipe of a judge.
    """
    open_file, open_stream = os.open, io.open

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = os.fsdecode(path)
        if name not in STANDARD:
            return open_file(path, flags, mode, dir_fd=dir_fd)
        file = os.dup(STANDARD[name])
        if STANDARD[name] == 0:
            os.lseek(file, 0, os.SEEK_SET)
        return file

    def stream(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[Any, int], int] | None = None,
    ) -> Any:
        opener = opener or (lambda path, flags: opened(path, flags, 0o666))
        return open_stream(file, mode, buffering, encoding, errors, newline, closefd, opener)

    os.open = opened
    builtins.open = io.open = stream


def script(path: str, name: str) -> dict[str, Any]:
    """The names that a program finds defined, which are those of a module `name` of its own."""
    sys.argv[:] = [path]  # the same list, which the prelude has by its name, too
    site.setquit()
    module = sys.modules[name] = ModuleType(name)
    for star in STAR_IMPORTS:
        exec(f"from {star} import *", module.__dict__)  # noqa: S102 - a fixed list
    for plain in STAR_IMPORTS[:-2]:
        exec(f"import {plain}", module.__dict__)  # noqa: S102
    for builtin in vars(builtins):  # found there, as always: also at the end, and if the program replaces one there
        if not builtin.startswith("_"):
            module.__dict__.pop(builtin, None)
    module.__dict__.update(__file__=path, __builtins__=builtins)
    return module.__dict__


def fork() -> int | None:
    """As os.fork; None: the machine had no process to give, now and a while later."""
    for wait in FORK_WAITS:
        try:
            return os.fork()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ENOMEM}:
                raise
            time.sleep(wait)
    return None


def run(program: CodeType, names: dict[str, Any], function: str, result: int) -> int:
    """Run the program as a script, or one of its functions on standard input's lines; an exit code.

    A function's return value is written to the open file `result` as JSON.
    """
    try:
        arguments = [json.loads(line) for line in sys.stdin.read().split("\n")] if function else []
        exec(program, names)  # noqa: S102 - what this process is for
        if function:
            owner = names["Solution"]() if "Solution" in names else None
            value = getattr(owner, function)(*arguments) if owner is not None else names[function](*arguments)
            with open(result, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(value, default=lambda scalar: scalar.item()))  # numpy's numbers
    except SystemExit:
        pass  # programs end by exit() as they please
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001
        return FAILED
    try:
        if not getattr(sys.stdout, "closed", False):
            sys.stdout.flush()
    except Exception:  # noqa: BLE001
        return FAILED
    return 0


def limit_time(seconds: int) -> None:
    """Beyond the first limit a signal says that time is up, beyond the second nothing can be caught."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def compiled(path: str, seconds: int) -> CodeType | bytes:
    """The program, compiled as text as LiveCodeBench does, whatever encoding it claims; or what to say instead."""
    child = fork()
    if child is None:
        return NOT_FORKED
    try:
        if child == 0:
            limit_time(seconds)
        elif os.waitpid(child, 0)[1]:
            return NOT_COMPILED  # what would end its process must not end this one
        with open(path, encoding="utf-8", newline="") as stream:  # noqa: PTH123 - importing pathlib takes time
            program = compile(stream.read(), path, "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001 - syntax, encoding, nesting, memory
        if child == 0:
            os._exit(FAILED)
        return NOT_COMPILED
    if child == 0:
        os._exit(0)
    return program


def main(control: socket.socket, call_filter: int, path: str, limits: list[int], function: str) -> None:
    """Start, compile and run.

    Args:
        limits: seconds of CPU time, tasks, and the user to become; 0: none.
    """
    seconds, tasks, user = limits
    with open(call_filter, "rb") as stream:
        instructions = stream.read()
    if user:
        become(user)
    limit(tasks)
    open_standard_files_by_name()
    names = script(path, "solution" if function else "__main__")
    null = os.open(os.devnull, os.O_RDWR)
    control.send(STARTED)
    program = compiled(path, seconds)
    if isinstance(program, bytes):
        control.send(program)
        return
    control.send(COMPILED)
    while True:
        message, files, *_ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        child = fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # too much output ends the program, as too much time does
            control.close()
            os.dup2(files[0], 0)
            os.dup2(null if function else files[1], 1)
            os.dup2(null, 2)
            limit_time(seconds)
            refuse_calls(instructions)
            # The interpreter ends as always: here it awaits threads, calls `atexit` and writes out what is open.
            raise SystemExit(run(program, names, function, files[1]))
        for file in files:
            os.close(file)
        if child is None:
            control.send(NOT_FORKED)
            continue
        _, status, usage = os.wait4(child, 0)
        control.send(struct.pack(ENDED, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime))


if __name__ == "__main__":
    control, call_filter, path, *limits = sys.argv[1:7]
    main(socket.socket(fileno=int(control)), int(call_filter), path, [int(n) for n in limits], "".join(sys.argv[7:]))
