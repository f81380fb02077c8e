"""Run a stage on GPUs that no other job of this machine uses: python -m scripts.run.devices GPUS MODULE [ARGUMENT …]

A job takes exactly the planned number of GPUs, also where it was given more (a snakemake inside `salloc`, say), and
holds the lock file of each as long as it lives; the kernel releases them, however it ends. GPUs are those that the
driver shows, by UUID: numbers mean another GPU in each container and in each Slurm job. A machine without any runs
the stage on its cores.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.run.errors import UserError

VARIABLE = "PLANNED_GPUS"  # how many the job took: the engine compares
VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDDEN = ("", "-1", "NoDevFiles")  # no GPU: CUDA's words, and Slurm's
# Not in the user's runtime folder, which goes with his last login and is not in containers: who looked elsewhere for
# locks would take a GPU that is in use. `lock_folder` sees that it is his all the same.
LOCKS = Path(tempfile.gettempdir(), f"gpus-of-{os.getuid()}")
POLL_SECONDS = 2


def driver_gpus() -> list[list[str]] | None:
    """UUIDs by the driver's index: of the GPU, or of its instances where it is cut into some (MIG). None: no driver."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    gpus: list[list[str]] = []
    for kind, uuid in re.findall(r"^\s*(GPU|MIG)\b.*\(UUID: (\S+)\)", answer, re.MULTILINE):
        if kind == "GPU":
            gpus.append([uuid])
        else:
            gpus[-1] = [name for name in gpus[-1] if name.startswith("MIG")] + [uuid]
    return gpus


def devices() -> list[str]:
    """GPUs that may be used: those named in CUDA_VISIBLE_DEVICES, or else all that there are.

    Raises:
        UserError: a GPU is named that the driver does not show.
    """
    names = [name.strip() for name in os.environ[VISIBLE].split(",")] if VISIBLE in os.environ else None
    if names and names[0] in HIDDEN:
        return []
    gpus = driver_gpus()
    if gpus is None:
        # Without the driver's program a name is taken at its word; CUDA counts from 0 those whose nodes are here.
        return names or [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    shown = [uuid for gpu in gpus for uuid in gpu]
    if names is None:
        return shown
    found = []
    for name in names:
        if name.isdigit() and int(name) < len(gpus):
            found += gpus[int(name)]
        elif len(matching := [uuid for uuid in shown if uuid.startswith(name)]) == 1:
            found += matching  # CUDA takes the beginning of a UUID too
        else:
            raise UserError(f"{VISIBLE} names {name}, but the driver shows {', '.join(shown) or 'no GPU'}: correct it")
    return list(dict.fromkeys(found))


def lock_folder() -> int:
    """The folder of the locks, opened: anybody may have made something else of its name beforehand.

    Raises:
        UserError: it is no folder, or not this user's alone.
    """
    try:
        LOCKS.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(LOCKS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise UserError(f"{LOCKS}, where GPUs are locked, is no folder ({error.strerror}): delete it") from None
    status = os.fstat(folder)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        os.close(folder)
        raise UserError(
            f"{LOCKS}, where GPUs are locked, belongs to user {status.st_uid} with mode {status.st_mode & 0o777:o}, "
            f"not to {os.getuid()} alone: let its owner or root delete it"
        )
    return folder


def lock(device: str) -> int | None:
    """Lock a GPU for this process and the one that it becomes; None if another holds it.

    Raises:
        UserError: the lock would not be this user's alone.
    """
    # A number says which GPU it is only within a Slurm job.
    scope = f"{os.environ.get('SLURM_JOB_ID', 'machine')}-" if device.isdigit() else ""
    name, folder = f"{scope}{device.replace('/', '_')}", lock_folder()
    try:
        file = os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    except OSError as error:
        raise UserError(f"{LOCKS / name} is no lock ({error.strerror}): delete it") from None
    finally:
        os.close(folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    os.set_inheritable(file, True)
    return file


def take(count: int, known: list[str]) -> list[str]:
    """Lock `count` of the known GPUs, all or none, and wait as long as too few are free.

    Raises:
        UserError: the locks would not be this user's alone.
    """
    told = False
    while True:
        held = {}
        for device in known:
            if len(held) < count and (file := lock(device)) is not None:
                held[device] = file
        if len(held) == count:
            return list(held)
        for file in held.values():
            os.close(file)
        if not told:
            print(f"waits for {count} of the GPUs {', '.join(known)}; others are in use", file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)


def check_visible(visible: int) -> None:
    """Compare the GPUs that a stage sees with those that its job took; by hand, any number will do.

    Raises:
        UserError: it sees another number.
    """
    taken = int(os.environ.get(VARIABLE, visible))
    if visible != taken and (visible or driver_gpus()):  # without a driver GPUs are but names, and there are cores
        raise UserError(
            f"the job was planned with {taken} GPUs, but sees {visible} ({VISIBLE}={os.environ.get(VISIBLE)}): see "
            "whether driver and torch agree (`nvidia-smi -L`, `python -m torch.utils.collect_env`)"
        )


def main(count: int, module: str, arguments: list[str]) -> None:
    try:
        offered = devices()
        if 0 < len(offered) < count:
            raise UserError(f"the job needs {count} GPUs, but was given {len(offered)} ({', '.join(offered)})")
        os.environ.pop(VARIABLE, None)
        if offered:
            os.environ |= {VISIBLE: ",".join(take(count, offered)), VARIABLE: str(count)}
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
