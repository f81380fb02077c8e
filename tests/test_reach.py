"""What a model-written program can reach of the machine: nothing but the interpreter and its own input and output."""

import os
import socket
import sys
from pathlib import Path

import pytest

from scripts.run.errors import UserError
from scripts.score import _bubblewrap, _packages
from scripts.score._code import Trial, attempt
from scripts.score._sandbox import check
from tests.conftest import ROOT
from tests.test_sandbox import HIDDEN, MARKER, SQUARE, nothing_is_left, output_of  # noqa: F401 (a fixture for all)

pytestmark = pytest.mark.usefixtures("sandbox")

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


@pytest.mark.parametrize("name", REFUSED)
def test_what_lies_outside_is_out_of_reach(name: str):
    secret = Path.home() / MARKER
    secret.write_text(HIDDEN)
    try:
        output = output_of(ATTEMPT.format(REFUSED[name]))
    finally:
        secret.unlink()
    assert output.startswith(b"refused"), output


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


def test_a_program_is_a_user_without_rights():
    """Also where the scorer is root: files that it may read are not its own."""
    program = "import os\nprint(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), os.stat('/dev/null').st_uid)"
    user, effective, group, groups, owner = output_of(program).decode().split(maxsplit=4)
    assert user == effective == group and user not in {"0", owner} and groups in {"[]", "[65534]"}
    if os.geteuid() == 0:
        assert int(user) > 1000
        assert user != output_of(program).split()[0].decode()  # of this program alone: its tasks are counted by it


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
