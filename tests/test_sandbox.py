"""Model-written programs: whatever one does hurts only itself, and is scored as what it is."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.run.errors import UserError
from scripts.score import _sandbox
from scripts.score._code import Trial, attempt
from scripts.score._sandbox import LostError, Outcome, Sandbox, check
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("sandbox")

SQUARE = [("5\n", "25\n"), ("7\n", "49\n")]
RIGHT = "print(int(input()) ** 2)"
HIDDEN = "what no program may print"
MARKER = f"escaped-{os.getpid()}"

# name: program, status. Each is told to square a number, each does something else.
HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout"),
    "fork bomb that minds": ("import os\nwhile True: os.fork()", "runtime_error"),
    "raw clone": ("import ctypes\nassert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0", "runtime_error"),
    "daemon": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass",
        "runtime_error",
    ),
    "shell": ("import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 100 &'], {})", "runtime_error"),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/true'])", "runtime_error"),
    "threads by the thousand": (
        "import threading, time\nthreading.stack_size(32768)\n"
        "while True: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
        "runtime_error",
    ),
    "memory in small pieces": ("x = []\nwhile True: x.append(b'1' * 10 ** 5)", "memory_limit"),
    "memory in large pieces": ("x = [b'1' * 300_000_000 for _ in range(20)]", "memory_limit"),
    "memory at once": ("x = [0] * 10 ** 10", "memory_limit"),
    "memory that is mapped": ("import mmap\nx = [mmap.mmap(-1, 10 ** 8) for _ in range(100)]", "runtime_error"),
    "files in memory": ("import os\nos.memfd_create('x')", "runtime_error"),
    "shared memory": ("import ctypes\nassert ctypes.CDLL(None).shmget(0, 10 ** 9, 0o1600) >= 0", "runtime_error"),
    "full disk": ("i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'w').write('x' * 10 ** 6)", "runtime_error"),
    "endless output": ("while True: print('x' * 1000)", "output_limit"),
    "endless output, raw": ("import os\nwhile True: os.write(1, b'25\\n' * 1000)", "output_limit"),
    "endless NULs": ("import os\nwhile True: os.write(1, bytes(10 ** 6))", "output_limit"),
    "endless errors": ("import os\nfor _ in range(10 ** 5): os.write(2, b'x' * 1000)", "ok"),
    "a hole as output": ("import os\nos.ftruncate(1, 10 ** 12)", "output_limit"),
    "sleeper": ("import time\ntime.sleep(10 ** 6)", "timeout"),
    "busy loop": ("while True: pass", "timeout"),
    "busy loop that catches signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, lambda *_: None)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "timeout",
    ),
    "busy loop inside C": ("sum(range(10 ** 18))", "timeout"),
    "regular expression": ("import re\nre.match('(a+)+b', 'a' * 60)", "timeout"),
    "waits for more input": (
        "input()\nimport time\nwhile True:\n    try: input()\n    except EOFError: time.sleep(1)", "timeout",
    ),
    "stops itself": ("import signal\nsignal.raise_signal(signal.SIGSTOP)", "timeout"),
    "kills its parent": ("import os\nos.kill(os.getppid(), 9)", "runtime_error"),
    "kills all": ("import os\nos.kill(-1, 9)", "runtime_error"),
    "kills its parent, by its thread": (
        "import ctypes, os\nctypes.CDLL(None).syscall(234, os.getppid(), os.getppid(), 9)\nimport time\ntime.sleep(1)",
        "ok",
    ),
    "stops its parent": (
        "import ctypes, os\nctypes.CDLL(None).syscall(234, os.getppid(), os.getppid(), 19)", "ok",
    ),
    "kills the first process": ("import os\nos.kill(1, 9)", "runtime_error"),
    "no answer, no error": ("import os\nos._exit(0)", "ok"),
    "ends by exit": ("import sys\nsys.exit(0)", "ok"),
    "ends by another code": ("import os\nos._exit(17)", "runtime_error"),
    "says that memory ran out": ("import os\nos._exit(2)", "memory_limit"),
    "aborts": ("import os\nos.abort()", "runtime_error"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "runtime_error"),
    "deep recursion": ("def f(n): return f(n + 1)\nf(0)", "runtime_error"),
    "stack overflow in C": ("x = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)", "runtime_error"),
    "no syntax": ("print(1", "compile_error"),
    "NUL in the program": ("print(1)\0", "compile_error"),
    "lone surrogate in the program": ("print('\ud800')", "compile_error"),
    "nesting that the compiler does not survive": ("(" * 10 ** 5 + ")" * 10 ** 5, "compile_error"),
    "constant that the compiler folds": ("x = ((9 ** 99 ** 2) ** 99) ** 99 ** 9", "timeout"),
    "lone surrogates as output": ("print('\ud800' * 10)".replace("\ud800", "\\ud800"), "runtime_error"),
    "huge number as text": ("print(10 ** 10 ** 5)", "runtime_error"),
    "signalling NaN": ("print('sNaN')", "ok"),
    "huge exponent": ("print('1e999999999')", "ok"),
    "a million lines": ("print('25\\n' * 10 ** 6)", "ok"),
    "a million numbers in a line": ("print('25 ' * 10 ** 6)", "ok"),
    "closes all files": ("import os\nos.closerange(0, 10 ** 4)\nprint(25)", "runtime_error"),
    "writes verdicts to all files": (
        "import os\nfor file in range(64):\n    for text in (b'\\0\\0\\0\\0', b'compiled', b'{\"passed\": true}'):\n"
        "        try: os.write(file, text)\n        except OSError: pass",
        "ok",
    ),
    "replaces input, print and open": (
        "import builtins\nbuiltins.input = builtins.print = builtins.open = lambda *_: '25'\nprint(25)", "ok",
    ),
    "replaces the driver's functions": (
        "import sys, json, os\ndriver = sys.modules['__main__']\ndriver.run = driver.main = lambda *_: 0\n"
        "json.dump = json.loads = lambda *_: 25\nos._exit = lambda *_: None\nsys.stdout = None",
        "runtime_error",
    ),
    "raises what is no exception": ("class E(BaseException): pass\nraise E", "runtime_error"),
    "exits from a frame further up": ("import sys\nsys._getframe(2).f_globals['os']._exit(0)", "ok"),
    "leaves a thread that never ends": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10 ** 6,)).start()", "timeout",
    ),
}  # fmt: skip


def processes() -> list[str]:
    """Names of the processes of this machine, in any PID namespace, that a sandbox of these tests has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"MARKER={MARKER}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "comm").read_text().strip())
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process and no file outlives a test; the next program is judged right."""
    monkeypatch.setenv("HIDDEN", HIDDEN)
    monkeypatch.setitem(_sandbox.ENVIRONMENT, "MARKER", MARKER)
    yield
    assert not processes()
    for folder in ("/", "/tmp", "/usr", "/dev", "/dev/shm", "/var/tmp", Path.home(), ROOT, Path.cwd()):  # noqa: S108
        assert not Path(folder, MARKER).exists()
    assert attempt(RIGHT, "", SQUARE) == Trial(True, "ok")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_hurts_only_itself(name: str):
    program, status = HOSTILE[name]
    started = time.monotonic()
    assert attempt(program, "", SQUARE, seconds=1 if status == "timeout" else 6) == Trial(False, status)
    assert time.monotonic() - started < 30


def output_of(program: str, data: bytes = b"") -> bytes:
    with Sandbox(program) as sandbox:
        return sandbox.run(data).output


def test_each_input_finds_the_program_new():
    with Sandbox("import builtins\nprint(getattr(builtins, 'seen', 0))\nbuiltins.seen = 1") as sandbox:
        assert [sandbox.run(b"") for _ in range(2)] == [Outcome("ok", b"0\n")] * 2


def test_the_death_of_the_scorer_ends_its_programs():
    program = textwrap.dedent(f"""
        from scripts.score._sandbox import ENVIRONMENT, Sandbox
        ENVIRONMENT["MARKER"] = {MARKER!r}
        with Sandbox("while True: pass", seconds=60) as sandbox:
            print("running", flush=True)
            sandbox.run(b"")
    """)
    scorer = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert scorer.stdout.readline() == b"running\n"
    while sum(name != "bwrap" for name in processes()) < 2:  # the driver and the program
        time.sleep(0.05)
    scorer.kill()
    scorer.wait()
    scorer.stdout.close()
    deadline = time.monotonic() + 10
    while processes() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match=r"no bubblewrap .*: apt-get install bubblewrap, or set `unsafe_code"):
            check(unsafe=False)


def test_a_bubblewrap_that_may_not_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(
            UserError, match=r"No permissions to create new namespace\): (allow|root needs) .* set `unsafe_code"
        ):
            check(unsafe=False)
        with pytest.raises(RuntimeError, match="No permissions"):  # no verdict on a program, either
            attempt(RIGHT, "", SQUARE)


# A loop of 5,000 clone(2) in machine code, faster than any library; it returns how many threads there were.
STORM = """
import ctypes, mmap, os
code = bytes.fromhex("4154 4155 4531e4 41bd88130000 b838000000 bf000f0500 31f6 31d2 4d31d2 4d31c0 0f05 85c0")
code += bytes.fromhex("7412 7803 41ffc4 41ffcd 75dc 4489e0 415d 415c c3")
code += bytes.fromhex("b822000000 0f05 ebf7")  # each thread waits for ever
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
os._exit(0)
"""
BOUNDED = not os.geteuid() or _sandbox.KERNEL >= (5, 14)


@pytest.mark.skipif(not BOUNDED, reason="before Linux 5.14 the kernel counts all that this user runs")
def test_the_kernel_bounds_threads():
    """Before anybody has looked."""
    with Sandbox(STORM) as sandbox:
        outcome = sandbox.run(b"")
    assert outcome.status == "ok"
    assert 100 < int(outcome.output) < _sandbox.TASKS


def storms(programs: int) -> list[Trial]:
    """What becomes of so many right programs beside two that do nothing but start threads."""
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            attempt(STORM, "", SQUARE)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            pool.submit(storm)
        try:
            return [pool.submit(attempt, RIGHT, "", SQUARE).result() for _ in range(programs)]
        finally:
            over.set()


def test_neighbours_of_storms_are_judged_right():
    assert storms(20) == [Trial(True, "ok")] * 20


def test_what_ends_the_driver_is_not_the_programs_fault(caplog: pytest.LogCaptureFixture):
    """Neither is what kills the program from outside: it is tried once more, then counts as not judged."""
    for victim in (2, 4):  # bubblewrap is the first in its namespace; the third has seen whether the program compiles
        with Sandbox("import time\ntime.sleep(5)") as sandbox, ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(sandbox.run, b"")
            os.kill(inside(sandbox.process.pid, victim), signal.SIGKILL)
            with pytest.raises(LostError):
                outcome.result()
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        trial = pool.submit(attempt, "import time\ntime.sleep(5)", "", SQUARE)
        killed = 0
        while not trial.done():
            for process in programs():
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
                    killed += 1
            over.wait(0.05)
    assert trial.result() == Trial(False, "error")
    assert killed == 2
    assert "not judged" in caplog.text


def inside(process: int, number: int) -> int:
    """The process that has this number in the sandbox, waited for."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pending = [process]
        while pending:
            found = pending.pop()
            pending += _sandbox._children(found)
            if re.search(rf"^NSpid:.*\t{number}$", Path("/proc", str(found), "status").read_text(), re.MULTILINE):
                return found
        time.sleep(0.02)
    raise AssertionError(f"no process {number}")


def programs() -> list[int]:
    """Processes of these tests that run a program: third or later in their namespace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"MARKER={MARKER}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                numbers = re.search(r"^NSpid:(.*)$", (folder / "status").read_text(), re.MULTILINE)[1].split()
                filtered = re.search(r"^Seccomp_filters:\t(\d+)$", (folder / "status").read_text(), re.MULTILINE)
                if len(numbers) > 1 and filtered[1] != "0":
                    found.append(int(folder.name))
    return found


def test_time_is_kept_though_signals_are_ignored():
    program = (
        "import signal, time\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "while time.process_time() < 1.5: pass\nprint(25)"
    )
    assert attempt(program, "", SQUARE[:1], seconds=1) == Trial(False, "timeout")
    assert attempt(program, "", SQUARE[:1], seconds=3) == Trial(True, "ok")


def test_who_sleeps_does_not_hold_the_judge(monkeypatch: pytest.MonkeyPatch):
    """Before each of ten answers for less than the limit of each; who computes as long may wait as long."""
    monkeypatch.setattr(_sandbox, "WAIT_SECONDS", 2)
    sleeper = "import time\ntime.sleep(1.5)\nprint(int(input()) ** 2)"
    began = time.monotonic()
    assert attempt(sleeper, "", SQUARE * 5, seconds=1) == Trial(False, "timeout")
    assert time.monotonic() - began < 6
    busy = "import time\nwhile time.process_time() < 0.6: pass\ntime.sleep(0.6)\nprint(int(input()) ** 2)"
    assert attempt(busy, "", SQUARE * 3, seconds=1) == Trial(True, "ok")


UNSAFE = ["fork bomb", "memory in small pieces", "threads by the thousand", "endless output", "sleeper", "busy loop"]


@pytest.mark.parametrize("name", UNSAFE)
def test_limits_hold_without_bubblewrap(name: str):
    program, status = HOSTILE[name]
    status = "thread_limit" if "threads" in name else status  # which the kernel does not bound then
    seconds = 1 if status == "timeout" else 6
    assert attempt(program, "", SQUARE, seconds, unsafe=True) == Trial(False, status)
    assert attempt(RIGHT, "", SQUARE, unsafe=True) == Trial(True, "ok")
