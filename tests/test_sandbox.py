"""Model-written programs: whatever one does hurts only itself, and is scored as what it is."""

import contextlib
import os
import re
import signal
import socket
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
from scripts.score import _bubblewrap, _packages, _sandbox
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

# What the system must refuse with an error; done, it prints what it found or "done".
REFUSED = {
    "writing to the system": f"open('/usr/{MARKER}', 'w')",
    "writing to the root": f"open('/{MARKER}', 'w')",
    "writing to /tmp": f"open('/tmp/{MARKER}', 'w')",
    "writing to /dev": f"open('/dev/{MARKER}', 'w')",
    "writing to /dev/shm": f"open('/dev/shm/{MARKER}', 'w')",
    "writing to the interpreter": "open(os.__file__, 'a')",
    "writing to the driver": "open('/driver.py', 'a')",
    "writing to itself": "open(__file__, 'a')",
    "writing to a package": "import scipy\n    open(scipy.__file__, 'a')",
    "a file beside a package": f"open('/packages/{MARKER}', 'w')",
    "another package": "os.listdir('/packages/torch')",
    "writing to the running interpreter": "open(os.path.realpath(sys.executable), 'r+b')",
    "a link to a place outside": f"os.symlink('/etc', '/tmp/{MARKER}')",
    "a folder": f"os.mkdir('/tmp/{MARKER}')",
    "reading the environment of others": "print(open('/proc/1/environ').read())",
    "the running interpreter by /proc": "open('/proc/self/exe', 'r+b')",
    "settings of the kernel": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "settings in /sys": "os.listdir('/sys')",
    "passwords": "print(open('/etc/shadow').read())",
    "users": "print(open('/etc/passwd').read())",
    "the home": f"print(open({str(Path.home() / MARKER)!r}).read())",
    "the list of the home": f"print(os.listdir({str(Path.home() / '.ssh')!r}))",
    "the repository": f"print(open({str(ROOT / 'README.md')!r}).read())",
    "the repository's environment": f"print(os.listdir({sys.prefix!r}))",
    "a device": "os.mknod('/tmp/sda', 0o60600, os.makedev(8, 0))",
    "a network socket": "socket.socket()",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a name of the network": "print(socket.getaddrinfo('example.org', 80))",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a virtual machine's socket": "socket.socket(socket.AF_VSOCK)",
    "a routing socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "more CPU time": "resource.setrlimit(resource.RLIMIT_CPU, (10 ** 6, 10 ** 6))",
    "more address space": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "more output": "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
    "other users' names": "os.setuid(0)",
    "another root": "os.chroot('/usr')",
    "more priority": "os.nice(-5)",
    "another name of the machine": "socket.sethostname('x')",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "tracing the parent": "call(101, 16, os.getppid(), 0, 0)",
    "reading the parent's memory": "call(310, os.getppid(), 0, 0, 0, 0, 0)",
    "mounting": "call(165, b'x', b'/tmp', b'tmpfs', 0, 0)",
    "unmounting": "call(166, b'/usr', 2)",
    "a namespace of its own": "call(272, 0x10000000)",
    "entering a namespace": "call(308, 0, 0)",
    "keys": "call(250, 0, -3, 0)",
    "a ring of input and output": "call(425, 8, bytes(200))",
    "the mode of a device": "os.chmod('/dev/null', 0o666)",
    "the mode of an open device": "os.fchmod(os.open('/dev/urandom', os.O_RDONLY), 0o666)",
    "the mode of the standard output": "os.fchmod(2, 0o666)",
    "the mode of a device, by the newest call": "call(452, -100, b'/dev/null', 0o666, 0)",
    "the owner of a device": "os.chown('/dev/null', -1, -1)",
    "the owner of an open device": "os.fchown(2, 0, 0)",
    "the times of a device": "os.utime('/dev/null')",
    "the times of a device, by an old call": "call(132, b'/dev/urandom', 0)",
    "an attribute of a device": "os.setxattr('/dev/null', 'user.x', b'x')",
    "an attribute less": "os.removexattr('/dev/urandom', 'user.x')",
    "an exclusive lock": "import fcntl\n    fcntl.flock(os.open('/usr', os.O_RDONLY), fcntl.LOCK_EX)",
    "a shared lock": "import fcntl\n    fcntl.flock(os.open('/driver.py', os.O_RDONLY), fcntl.LOCK_SH)",
    "a lock that others wait for": "import fcntl\n    fcntl.lockf(os.open('/driver.py', os.O_RDONLY), fcntl.LOCK_SH)",
    "a lock of an open file": "call(72, os.open('/driver.py', os.O_RDONLY), 37, bytes(32))",
    "a lease": "call(72, os.open('/driver.py', os.O_RDONLY), 1024, 0)",
    "news of a folder": "call(72, os.open('/usr', os.O_RDONLY), 1026, 2)",
    "watching files": "call(294, 0)",
    "the machine's rings": "call(206, 60000, ctypes.byref(ctypes.c_ulong()))",
    "where the host's files lie": "call(457, bytes(24), bytes(4096), 4096, 0)",
    "a list of mounts": "call(458, bytes(24), bytes(4096), 512, 0)",
    "a call that is not known yet": "call(999, 0, 0, 0)",
    "being root": "os.setresuid(0, 0, 0)",
    "root's group": "os.setgroups([0])",
    "a signal to the driver's thread": "call(234, os.getppid(), os.getppid(), 9)",
    "a signal by the oldest call": "call(200, os.getppid(), 9)",
    "a queued signal": "call(129, os.getppid(), 9, bytes(128))",
    "a queued signal to a thread": "call(297, os.getppid(), os.getppid(), 9, bytes(128))",
    "a signal by a file of the process": "call(424, 1, 9, 0, 0)",
    "a file of a process": "call(434, os.getppid(), 0)",
    "who is told of a pipe": "call(72, os.pipe()[0], 8, os.getppid())",
    "by which signal": "call(72, os.pipe()[0], 10, 9)",
    "who is told of a pipe, otherwise": "call(72, os.pipe()[0], 15, (ctypes.c_int * 2)(1, os.getppid()))",
    "who is told of a socket": "call(16, socket.socketpair()[0].fileno(), 0x8901, ctypes.byref(ctypes.c_int(2)))",
    "typing for others": "call(16, 0, 0x5412, b'x')",
    "limits of the driver": "resource.prlimit(os.getppid(), resource.RLIMIT_AS, (0, 0))",
    "more threads": "resource.setrlimit(resource.RLIMIT_NPROC, (10 ** 6, 10 ** 6))",
    "calls by their x32 numbers": "call(0x40000000 + 41, 2, 1, 0)",
    "a process by clone3": "call(435, bytes(88), 88)",
}  # fmt: skip
ATTEMPT = """
import ctypes, os, resource, socket, sys, time
def call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
try:
    {}
except (OSError, ValueError) as error:
    print("refused", error)
else:
    print("done")
"""


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


@pytest.mark.parametrize("name", REFUSED)
def test_what_lies_outside_is_out_of_reach(name: str):
    secret = Path.home() / MARKER
    secret.write_text(HIDDEN)
    try:
        output = output_of(ATTEMPT.format(REFUSED[name]))
    finally:
        secret.unlink()
    assert output.startswith(b"refused"), output


def output_of(program: str, data: bytes = b"") -> bytes:
    with Sandbox(program) as sandbox:
        return sandbox.run(data).output


def test_a_server_on_this_machine_sees_no_connection():
    """Neither by TCP nor by an abstract name, not even by a socket that the program need not make."""
    ways = {
        "socket.socket()": socket.create_server(("127.0.0.1", 0)),
        "socket.socketpair(type=socket.SOCK_DGRAM)[0]": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    }
    for way, server in ways.items():
        with server:
            if server.family == socket.AF_UNIX:
                server.bind(f"\0{MARKER}")
            server.setblocking(False)
            program = f"import socket\ns = {way}\ns.connect({server.getsockname()!r})\ns.send(b'x')\nprint(25)"
            assert attempt(program, "", SQUARE) == Trial(False, "runtime_error")
            with pytest.raises(BlockingIOError):
                server.recv(1) if server.family == socket.AF_UNIX else server.accept()


def test_a_program_finds_nothing_but_python():
    folders = ("/", "/tmp", "/dev", "/dev/fd", "/packages")  # noqa: S108 - inside
    program = f"import os\nprint(os.environ, *[name for folder in {folders} for name in os.listdir(folder)])"
    environment, _, names = output_of(program).decode().partition("}) ")
    assert HIDDEN not in environment
    allowed = {"bin", "lib", "lib32", "lib64", "sbin", "usr", "etc", "tmp", "dev", "driver.py", "packages"}
    allowed |= {"null", "urandom", "stdin", "stdout", "stderr", "fd", "0", "1", "2", Path(sys.base_prefix).parts[1]}
    allowed |= {*_packages.NAMES, "numpy.libs", "scipy.libs", "program.py"}
    assert {"usr", "driver.py"} <= set(names.split()) <= allowed


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


def test_a_program_is_a_user_without_rights():
    """Also where the scorer is root: files that it may read are not its own."""
    program = "import os\nprint(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), os.stat('/dev/null').st_uid)"
    user, effective, group, groups, owner = output_of(program).decode().split(maxsplit=4)
    assert user == effective == group and user not in {"0", owner} and groups in {"[]", "[65534]"}
    if os.geteuid() == 0:
        assert int(user) > 1000
        assert user != output_of(program).split()[0].decode()  # of this program alone: its tasks are counted by it


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


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is shown in sandboxes, as /usr is, with a repository in it, as containers have them."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr(_bubblewrap, "SYSTEM", [*_bubblewrap.SYSTEM, tmp_path])
    app = tmp_path / "src/app"
    (app / "results/datasets/livecodebench").mkdir(parents=True)
    (app / "results/datasets/livecodebench/tests.jsonl").write_text(HIDDEN)
    (tmp_path / "open").write_text("for all")
    monkeypatch.chdir(app)
    return tmp_path


def test_a_repository_below_usr_is_not_seen(system: Path, monkeypatch: pytest.MonkeyPatch):
    home, data = system / "home", system / "share/data"
    for folder in (home, data):
        folder.mkdir(parents=True)
        (folder / "secret").write_text(HIDDEN)
    monkeypatch.setenv("HOME", str(home))
    Path("results/datasets/gpqa").symlink_to(data)
    names = [home / "secret", data / "secret", Path("results/datasets/livecodebench/tests.jsonl").resolve()]
    program = "import sys\nfor name in sys.stdin.read().split():\n    try: print(open(name).read())\n"
    program += "    except OSError as error: print('refused', error.errno)"
    found = output_of(program, "\n".join(map(str, [system / "open", *names])).encode()).decode().splitlines()
    assert found == ["for all", *["refused 2"] * 3]
    check(unsafe=False, secret=names)
    with pytest.raises(UserError, match=rf"^{system / 'open'}: programs can read it"):
        check(unsafe=False, secret=[*names, system / "open"])


def test_packages_that_only_their_owner_may_read_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A program that imports one would fail, and be judged wrong; of an ordinary user's it is the owner."""
    package = tmp_path / "closed"
    package.mkdir(mode=0o700)
    folders = (*_packages.folders(), package)
    with monkeypatch.context() as patch:
        patch.setattr(_packages, "folders", lambda: folders)
        if os.geteuid():
            check(unsafe=False)
        else:
            with pytest.raises(UserError, match=r"may not read /packages/closed: chmod -R go\+rX"):
                check(unsafe=False)


UNSAFE = ["fork bomb", "memory in small pieces", "threads by the thousand", "endless output", "sleeper", "busy loop"]


@pytest.mark.parametrize("name", UNSAFE)
def test_limits_hold_without_bubblewrap(name: str):
    program, status = HOSTILE[name]
    status = "thread_limit" if "threads" in name else status  # which the kernel does not bound then
    seconds = 1 if status == "timeout" else 6
    assert attempt(program, "", SQUARE, seconds, unsafe=True) == Trial(False, status)
    assert attempt(RIGHT, "", SQUARE, unsafe=True) == Trial(True, "ok")
