"""The system calls that a program in the sandbox may not make, as a filter for the kernel.

A program has threads, but no other processes: so the limits of a process bound all of it, and a fork bomb ends at its
first fork. (LiveCodeBench's own harness takes `os.fork`, `os.kill` and `subprocess.Popen` away, too.) Other refused
calls
- reach what lies outside of namespaces: keys, virtual sockets, performance counters, the machine's few rings,
- use memory that no limit counts: shared segments,
- change or hold what the host's files have beside their content, which a read-only mount does not always keep (not that
  of a device): mode, owner, times, attributes, locks, leases,
- signal or limit the process that says how this one ended,
- or open more of the kernel than a program needs: what Linux 5.16 and later added, unknown ones included.

All else is allowed. The format is that of seccomp(2): a classic BPF program over `struct seccomp_data`.
"""

import struct

from scripts.score._driver import OWN_PROCESS

# <linux/audit.h>, <asm/unistd_64.h>, <linux/sched.h>, <linux/fcntl.h>, <asm/ioctls.h>; all needs x86-64 anyway.
X86_64 = 0xC000003E
IOCTL, CLONE, FCNTL, TGKILL, PRLIMIT64, CLONE3 = 16, 56, 72, 234, 302, 435
FIRST_NEW = 449  # futex_waitv; the same calls by their x32 numbers are beyond it, too
CLONE_THREAD = 0x00010000
REFUSED = {
    "shmget": 29, "socket": 41, "fork": 57, "vfork": 58, "kill": 62, "semget": 64, "msgget": 68, "flock": 73,
    "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101, "rt_sigqueueinfo": 129,
    "utime": 132, "pivot_root": 155, "mount": 165, "umount2": 166, "quotactl": 179, "setxattr": 188, "lsetxattr": 189,
    "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "io_setup": 206,
    "utimes": 235, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "inotify_init": 253,
    "fchownat": 260, "futimesat": 261, "fchmodat": 268, "unshare": 272, "utimensat": 280, "inotify_init1": 294,
    "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "memfd_create": 319, "bpf": 321,
    "userfaultfd": 323, "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448,
}  # fmt: skip
REFUSED_FCNTL = {
    "F_SETLK": 6, "F_SETLKW": 7, "F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15, "F_OFD_SETLK": 37,
    "F_OFD_SETLKW": 38, "F_SETLEASE": 1024, "F_NOTIFY": 1026,
}  # fmt: skip
REFUSED_IOCTL = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "FIOASYNC": 0x5452, "FIOSETOWN": 0x8901, "SIOCSPGRP": 0x8902}

NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
LOAD, IF_EQUAL, IF_NOT_LESS, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, NOT_PERMITTED, NOT_IMPLEMENTED = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

Step = tuple[int, int, int, int]


def _then_return(test: int, value: int, verdict: int) -> list[Step]:
    """If the loaded value passes the test, end with a verdict."""
    return [(test, 0, 1, value), (RETURN, 0, 0, verdict)]


def _by_argument(call: int, argument: int, steps: list[Step], otherwise: int) -> list[Step]:
    """Decide on one call by the lower half of an argument, which is all that the kernel reads of these."""
    steps = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), *steps, (RETURN, 0, 0, otherwise)]
    return [(IF_EQUAL, 0, len(steps), call), *steps]


def _refuse(values: dict[str, int]) -> list[Step]:
    return [step for value in values.values() for step in _then_return(IF_EQUAL, value, NOT_PERMITTED)]


def seccomp_filter() -> bytes:
    own = _then_return(IF_EQUAL, struct.unpack("=I", OWN_PROCESS)[0], ALLOW)
    instructions = [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, X86_64),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        *_then_return(IF_NOT_LESS, FIRST_NEW, NOT_IMPLEMENTED),
        # Its flags lie in memory, where a filter cannot look; told that it is missing, the C library uses clone.
        *_then_return(IF_EQUAL, CLONE3, NOT_IMPLEMENTED),
        *_refuse(REFUSED),
        *_by_argument(CLONE, 0, _then_return(IF_ANY_BIT, CLONE_THREAD, ALLOW), NOT_PERMITTED),
        *_by_argument(TGKILL, 0, own, NOT_PERMITTED),
        *_by_argument(PRLIMIT64, 0, [*_then_return(IF_EQUAL, 0, ALLOW), *own], NOT_PERMITTED),
        *_by_argument(FCNTL, 1, _refuse(REFUSED_FCNTL), ALLOW),
        *_by_argument(IOCTL, 1, _refuse(REFUSED_IOCTL), ALLOW),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
