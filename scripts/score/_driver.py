"""What runs inside the sandbox: one program, in a fresh process for each input.

Nothing here judges. The caller holds the clock and the right answers; it sends two open files for each input, one to
read from and one to write to, and is told how the process ended. A program that takes over this process gains no more
than the right to fail.

python _driver.py SOCKET PROGRAM FILTER SECONDS [FUNCTION], the first three as numbers of open files
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import threading
from types import CodeType
from typing import Any

ADDRESS_SPACE = 4 << 30  # stacks of threads are reserved, not used: what is really used, the caller bounds
STACK = 8 << 20  # whatever the shell's limit is: deep recursion must not depend on it
OPEN_FILES = 64
OUTPUT_LIMIT = 32 << 20  # bytes; several times the longest right answer
STARTED, COMPILED, NOT_COMPILED = b"started", b"compiled", b"not compiled"
FAILED, OUT_OF_MEMORY = 1, 2  # exit codes
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2

# What LiveCodeBench (MIT; lcb_runner/evaluation/testing_util.py) puts before every program, in its order: later
# modules hide names of earlier ones, `builtins` brings back those that must not change.
STAR_IMPORTS = [
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
]


def limit(seconds: int) -> None:
    """Set limits that hold for this process and each of its children; none can be raised again."""
    for kind, value in [
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_FSIZE, OUTPUT_LIMIT),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ]:
        resource.setrlimit(kind, (value, value))
    # Beyond the first a signal says that time is up, beyond the second nothing can be caught.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    sys.setrecursionlimit(50000)  # this and the next as LiveCodeBench
    sys.set_int_max_str_digits(50000)


class Filter(ctypes.Structure):
    """`struct sock_fprog` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(instructions: bytes) -> None:
    """Let the kernel filter the system calls of this process from here on."""
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = Filter(len(instructions) // 8, instructions)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(wanted)
    ):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def prelude() -> dict[str, Any]:
    """The names that a program finds defined."""
    names: dict[str, Any] = {}
    for module in STAR_IMPORTS:
        exec(f"from {module} import *", names)  # noqa: S102 - a fixed list
    for module in STAR_IMPORTS[:-2]:
        exec(f"import {module}", names)  # noqa: S102
    return names


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
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit:
        pass  # programs end by exit() as they please
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001
        return FAILED
    try:
        sys.stdout.flush()
    except Exception:  # noqa: BLE001
        return FAILED
    return 0


def main(control: socket.socket, source: int, call_filter: int, seconds: int, function: str) -> None:
    limit(seconds)
    with open(call_filter, "rb") as stream:
        instructions = stream.read()
    control.send(STARTED)
    try:
        with open(source, "rb") as stream:
            program = compile(stream.read(), "program.py", "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001 - syntax, encoding, nesting, memory
        control.send(NOT_COMPILED)
        return
    names = prelude() | {"__name__": "solution" if function else "__main__"}
    null = os.open(os.devnull, os.O_RDWR)
    control.send(COMPILED)
    while True:
        message, files, *_ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # too much output ends the program, as too much time does
            control.close()
            os.dup2(files[0], 0)
            os.dup2(null if function else files[1], 1)
            os.dup2(null, 2)
            refuse_calls(instructions)
            os._exit(run(program, names, function, files[1]))
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        control.send(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))


if __name__ == "__main__":
    first, *numbers = map(int, sys.argv[1:5])
    main(socket.socket(fileno=first), *numbers, function="".join(sys.argv[5:]))
