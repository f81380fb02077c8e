"""A real Slurm on this machine: munged, slurmctld and slurmd of its own, with pretended cores and GPUs.

Jobs inside Slurm look for its configuration in `/etc/slurm` only, so links lie there while it runs.
"""

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ETC = Path("/etc/slurm")
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
GPUS = 2
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.sock
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=1
MinJobAge=3600
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES
PartitionName=gpu Nodes={host}
PartitionName=urgent Nodes={host} PriorityTier=2
"""


class Cluster:
    """One node with two GPUs that are device files with nothing behind.

    Of its partitions `cpu`, `gpu` and `urgent` the last takes what it needs from jobs of the others.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        host = socket.gethostname().split(".")[0]
        for name in ("ctld", "slurmd", "cgroup"):
            (state / name).mkdir()
        for number in range(GPUS):
            os.mknod(state / f"nvidia{number}", stat.S_IFCHR, os.makedev(195, number))
        files = {
            "slurm.conf": SLURM_CONF.format(
                host=host, state=state, ctld_port=free_port(), slurmd_port=free_port(), gpus=GPUS
            ),
            "gres.conf": f"Name=gpu File={state}/nvidia[0-{GPUS - 1}] Flags=nvidia_gpu_env\n",
            # Neither mounted nor constrained: the daemons only want to read it.
            "cgroup.conf": f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={state}/cgroup\n",
        }
        ETC.mkdir(exist_ok=True)
        for name, content in files.items():
            (state / name).write_text(content)
            (ETC / name).unlink(missing_ok=True)
            (ETC / name).symlink_to(state / name)
        self.host = host

    def start(self) -> None:
        key = self.state / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        subprocess.run(
            [
                "munged", "--force", f"--key-file={key}", f"--socket={self.state}/munge.sock",
                f"--pid-file={self.state}/munged.pid", f"--log-file={self.state}/munged.log",
                f"--seed-file={self.state}/munged.seed",
            ],
            check=True,
        )  # fmt: skip
        self.start_controller()
        subprocess.run(["slurmd", "-N", self.host], check=True)
        wait_for(lambda: "idle" in output("sinfo", "--noheader", "--format=%t"))

    def start_controller(self) -> None:
        subprocess.run(["slurmctld"], check=True)
        wait_for(lambda: " is UP" in output("scontrol", "ping"))

    def stop(self, *daemons: str) -> None:
        """End daemons by their own process numbers, and wait until they are gone."""
        for daemon in daemons:
            pid = int((self.state / f"{daemon}.pid").read_text())
            os.kill(pid, 15)
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())

    def close(self) -> None:
        subprocess.run(["scancel", "--user=root", "--full"], check=False)
        wait_for(lambda: not output("squeue", "--noheader"), 40)
        self.stop("slurmd", "slurmctld", "munged")
        for path in ETC.iterdir():
            if path.is_symlink() and path.readlink().parent == self.state:
                path.unlink()


def missing() -> str | None:
    """Why no Slurm can be started here."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"Slurm is not installed ({', '.join(absent)} not found): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    conf = ETC / "slurm.conf"
    if conf.exists() and (not conf.is_symlink() or " is UP" in output("scontrol", "ping")):
        return f"{conf} is that of another Slurm"  # a link to a Slurm that is down was left by tests that were killed
    return None


def output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def wait_for(happened: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
