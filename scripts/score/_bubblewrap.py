"""What a sandbox is made of: the command of bubblewrap, and the user that a program is inside.

Files are the system's and the interpreter's, read-only. There is no /proc and no /sys, and even /tmp cannot be written
to: then nothing needs a size limit, for which Debian 11, Ubuntu 22.04 and RHEL 9 have a bubblewrap too old.

A program is nobody. Whoever is not root makes a user namespace, in which it has his number and none of his rights. In
one that root makes it would be root to the files of the host, which /dev/null is: so the driver of root's sandbox gives
that up for a number of its own, which nobody else has (`_driver.become`).
"""

import os
import secrets
import shutil
import sys
from pathlib import Path

from scripts.score import _driver, _packages

PROGRAM, PACKAGES = Path("/tmp/program.py"), Path("/packages")  # noqa: S108 - inside
SYSTEM = [Path(path) for path in ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin")]
NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")


def spare_user() -> int:
    """The number of a user that nobody else is, for a program of root's; 0 for whoever is not root.

    Nor is root of a user namespace that knows no other user: what he owns, somebody without rights owns outside.
    """
    if os.geteuid():
        return 0
    lines = Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()
    first, _, count = max((tuple(map(int, line.split())) for line in lines), key=lambda line: line[2])
    # Far from those that are given out; the last two numbers mean nobody and no change.
    return first + count - 3 - secrets.randbelow(count // 2) if count > 1000 else 0


def command(program: int, user: int) -> list[str]:
    """The command that runs another in a sandbox.

    Args:
        program: an open file, put at `PROGRAM`. Packages are put into `PACKAGES`.
        user: what `spare_user` says, to which the driver has to change.
    """
    folders = {PACKAGES / folder.name: folder for folder in _packages.folders()}
    private = _private()
    return [
        *(shutil.which("bwrap") or "bwrap", *NAMESPACES, "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *(
            ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
            if user
            else ("--unshare-user", "--uid", "65534", "--gid", "65534")
        ),
        *("--hostname", "sandbox"),
        # What bubblewrap makes by itself on the way to a mount only its maker may enter.
        *_folders(
            *SYSTEM, *folders, Path(sys.base_prefix), PROGRAM, *map(Path, _driver.STANDARD), Path("/etc/ld.so.cache")
        ),
        *(word for path in SYSTEM for word in _bound(path, private)),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *_bound(Path(sys.base_prefix), private),
        *(word for inside, folder in folders.items() for word in ("--ro-bind", str(folder), str(inside))),
        *("--ro-bind", _driver.__file__, "/driver.py"),
        *("--dev-bind", "/dev/urandom", "/dev/urandom"),
        # Of standard input and output the names alone, for whoever asks whether they exist: the driver opens the files.
        *(word for path in ("/dev/null", *_driver.STANDARD) for word in ("--dev-bind", "/dev/null", path)),
        *("--file", str(program), str(PROGRAM)),  # not as bound data, which only their owner may read
        *("--remount-ro", "/", "--chdir", str(PROGRAM.parent)),
    ]


def _folders(*inside: Path) -> list[str]:
    """Make the folders that these lie in, from the top."""
    parents = dict.fromkeys(parent for path in inside for parent in reversed(path.parents[:-1]))
    return [word for parent in parents if parent not in SYSTEM for word in ("--dir", str(parent))]


def _bound(path: Path, private: set[Path]) -> list[str]:
    """Show a folder of the system inside, without the private ones that lie in it."""
    if path.is_symlink():  # into /usr
        return ["--symlink", str(path.readlink()), str(path)]
    if not path.exists():
        return []
    hidden = [word for folder in private if path in folder.parents for word in ("--tmpfs", str(folder))]
    return ["--ro-bind", str(path), str(path), *hidden]


def _private() -> set[Path]:
    """Folders that may lie below /usr or the interpreter's prefix, as in containers: code, results, data sets, home."""
    folders = {Path(__file__).parents[2], Path(), Path.home(), Path("results"), *Path("results/datasets").glob("*")}
    return {folder.resolve() for folder in folders if folder.is_dir()}
