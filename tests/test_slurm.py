"""The study on a real Slurm with pretended GPUs: equal to the local run, whatever interrupts it.

Jobs are watched as in tests/test_faults.py: what the engine finishes is witnessed outside the store.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from scripts.generate.store import read_segment, segments
from tests import cluster as slurm
from tests.cluster import Cluster
from tests.conftest import TINY_STUDY, Copy
from tests.test_faults import ARTIFACT, CELL, SAMPLES, Watched

# What a site would write into the profile, and checks in seconds instead of minutes.
OPTIONS = (
    "--slurm-init-seconds-before-status-checks", "2",
    "--default-resources", "mem_mb=4000", "runtime=60", "slurm_partition=cpu",
    "--set-resources", "generate:slurm_partition=gpu", "generate:nodes=1", "generate:tasks_per_gpu=0",
    "quantize:slurm_partition='gpu' if input.calibration else 'cpu'",
    "quantize:nodes=1", "quantize:tasks_per_gpu=0",
)  # fmt: skip
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--profile", "slurm", *OPTIONS)
STUDY = {
    "studies": {
        "tiny": {
            "suites": ["arithmetic"],
            "grid": [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3"]}],
        }
    },
    "suites": {"arithmetic": TINY_STUDY["suites"]["arithmetic"]},
    "corpora": {},
}


class Study(Watched):
    """A study of two checkpoints on the cluster, in the repository's own config/config.yaml."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "config/config.yaml").write_text(yaml.safe_dump(STUDY))
        self.started: list[subprocess.Popen] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        self.started.append(super().start(*command, **environment))
        return self.started[-1]

    def jobs(self, **wanted: str) -> list[dict[str, str]]:
        """All jobs that Slurm remembers of this study, with the properties that are wanted."""
        lines = slurm.output("scontrol", "--oneliner", "show", "jobs").splitlines()
        jobs = [dict(re.findall(r"(\w[\w/:]*)=(\S*)", line)) for line in lines]
        return [
            job
            for job in jobs
            if job.get("WorkDir") == str(self.root)
            and all(re.fullmatch(value, job[key]) for key, value in wanted.items())
        ]

    def generating(self) -> dict[str, str]:
        return self.jobs(JobState="RUNNING", Comment="rule_generate_.*")[0]

    def flushed(self) -> set[str]:
        """What was finished when the job was told to stop: all of it is stored. Goes on at full speed."""
        (self.root / "slow").unlink()
        assert "told to stop; what is finished is stored" in self.tail()
        finished = set(self.finished())
        assert finished <= self.stored()
        return finished

    def tail(self) -> str:
        logs = sorted((self.root / "results/logs/slurm").rglob("*.log"))
        return "\n".join([self.output()[-6000:], *(path.read_text()[-2000:] for path in logs)])

    def finish(self, *arguments: str) -> None:
        assert self.start(*SNAKEMAKE, *arguments).wait(600) == 0, self.tail()


def minutes(limit: str) -> int:
    """Of what Slurm prints as `[days-]hours:minutes:seconds`."""
    days, _, clock = limit.rpartition("-")
    hours, passed, _ = clock.split(":")
    return (int(days or 0) * 24 + int(hours)) * 60 + int(passed)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := slurm.missing():
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def ran(cluster: Cluster, built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, run once on the cluster without interruption."""
    study = Study(tmp_path_factory.mktemp("ran") / "repository")
    study.finish()
    return study


def test_results_equal_those_of_the_local_run(ran: Study, built: Copy):
    for scheme in ("none/full", "rtn/w3"):
        for name in ("generate/{}/arithmetic", "score/{}/arithmetic/addition", "score/{}/arithmetic/multiplication"):
            path = f"results/{name.format(f'tiny-qwen-s/{scheme}')}.parquet"
            columns = [name for name in pq.read_schema(ran.root / path).names if name != "sample"]
            here, there = (pq.read_table(root / path, columns=columns) for root in (ran.root, built.root))
            assert here.equals(there), path


def test_gpus_are_asked_for_where_they_are_used(ran: Study):
    """One by each generate job, none by others, nor by a quantizer without calibration: they stay off the partition."""
    jobs = ran.jobs()
    on_gpus = {job["Comment"] for job in jobs if job.get("TresPerJob") == "gres:gpu:1"}
    assert on_gpus == {
        "rule_generate_wildcards_tiny-qwen-s_none_full_arithmetic",
        "rule_generate_wildcards_tiny-qwen-s_rtn_w3_arithmetic",
    }
    assert {job["Comment"] for job in jobs if job["Partition"] == "gpu"} == on_gpus


def test_small_jobs_are_one_submission(ran: Study):
    """The scores of a checkpoint, the tables of a study; what needs the internet or no time is not submitted."""
    comments = sorted(job["Comment"].split("_wildcards")[0] for job in ran.jobs())
    assert len([comment for comment in comments if "score" in comment]) == 2
    assert len([comment for comment in comments if "accuracy" in comment or "report" in comment]) == 1
    assert not [comment for comment in comments if "code" in comment]
    # Questions, models, quantize, generate, score, report, and the explorer, which takes long in a large study.
    assert len(comments) == 2 + 1 + 2 + 2 + 2 + 1 + 1


def test_slurm_hands_out_the_gpu(ran: Study):
    """A record names the job, by which it is found in the scheduler's own books, its node and its partition."""
    slurm = json.loads((ran.root / ARTIFACT).with_suffix(".record.json").read_text())["slurm"]
    assert slurm["SLURM_JOB_ID"].isdigit()
    assert slurm["SLURM_JOB_PARTITION"] == "gpu"
    assert slurm["SLURMD_NODENAME"] == slurm["SLURM_JOB_NODELIST"]


@pytest.fixture
def study(ran: Study) -> Iterator[Study]:
    """The study, one checkpoint of which has not been asked yet."""
    undisturbed = ran.root / "undisturbed.parquet"
    if not undisturbed.exists():
        (ran.root / ARTIFACT).rename(undisturbed)
    (ran.root / ARTIFACT).unlink(missing_ok=True)
    asked = set(pq.read_table(undisturbed, columns=["sample"])["sample"].to_pylist())
    for segment in segments(ran.root / SAMPLES):
        if asked & set(read_segment(segment)["sample"].to_pylist()):
            segment.unlink()
    for path in ("finished.txt", "output.txt"):
        (ran.root / path).write_text("")
    (ran.root / "slow").touch()  # so that a fault meets the job at work, however fast the machine
    yield ran
    for process in ran.started:
        process.kill()
    slurm.output("scancel", "--user=root", "--full")
    slurm.wait_for(lambda: not slurm.output("squeue", "--noheader"), 40)


@pytest.fixture
def recovered(study: Study, record_property: Callable) -> Callable[..., None]:
    def check(fault: str, before: set[str], lost: set[str]) -> None:
        """The artifact is as ever, and generated twice is exactly what the fault destroyed."""
        repeated = {sample for sample, count in study.finished().items() if count > 1}
        equal = pq.read_table(study.root / ARTIFACT).equals(pq.read_table(study.root / "undisturbed.parquet"))
        record_property("fault", [fault, len(before), len(lost), len(repeated), equal])
        assert equal
        assert repeated == lost

    return check


def test_a_cancelled_job_flushes_and_goes_on(study: Study, recovered: Callable):
    """SIGTERM comes through sbatch, srun and snakemake in time to store all that is finished."""
    controller = study.start(*SNAKEMAKE, "--", ARTIFACT)
    study.wait_for(lambda: study.finished().total() > 100, 120)
    job = study.generating()["JobId"]
    slurm.output("scancel", job)
    slurm.wait_for(lambda: study.jobs(JobId=job, JobState="CANCELLED"))
    before = study.flushed()
    assert controller.wait(240) == 0, study.tail()
    again = study.jobs(Comment=f"rule_generate.*{CELL.replace('/', '_')}_arithmetic")[-1]
    assert again["MinMemoryNode"] == "8000M"  # the second attempt asks for more
    recovered("scancel of generate", before, set())


@pytest.mark.campaign
def test_a_preempted_job_flushes_and_is_requeued(study: Study, recovered: Callable):
    """By a job of a partition of higher priority that wants all GPUs."""
    controller = study.start(*SNAKEMAKE, "--", ARTIFACT)
    study.wait_for(lambda: study.finished().total() > 100, 120)
    job = study.generating()["JobId"]
    slurm.output("sbatch", "--partition=urgent", f"--gpus={slurm.GPUS}", "--output=/dev/null", "--wrap=sleep 5")
    slurm.wait_for(lambda: study.jobs(JobId=job, JobState="PENDING", Restarts="1"), 90)
    before = study.flushed()
    slurm.output("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would hold it back for two minutes
    assert controller.wait(240) == 0, study.tail()
    recovered("preemption", before, set())


@pytest.mark.campaign
def test_a_job_out_of_time_flushes_and_is_given_more(study: Study, recovered: Callable):
    controller = study.start(*SNAKEMAKE, "--", ARTIFACT)
    study.wait_for(lambda: study.finished().total() > 100, 120)
    job = study.generating()
    slurm.output("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=1")
    slurm.wait_for(lambda: study.jobs(JobId=job["JobId"], JobState="TIMEOUT"), 180)
    before = study.flushed()
    assert controller.wait(240) == 0, study.tail()
    again = study.jobs(Comment=job["Comment"])[-1]
    assert minutes(again["TimeLimit"]) == 2 * minutes(job["TimeLimit"])
    recovered("time limit", before, set())


@pytest.mark.campaign
def test_a_lost_node_requeues_its_job(study: Study, cluster: Cluster, recovered: Callable):
    controller = study.start(*SNAKEMAKE, "--", ARTIFACT)
    study.wait_for(lambda: study.finished().total() > 100, 120)
    job = study.generating()["JobId"]
    slurm.output("scontrol", "update", f"NodeName={cluster.host}", "State=DOWN", "Reason=test")
    slurm.wait_for(lambda: study.jobs(JobId=job, JobState="PENDING", Restarts="1"))
    # A node that comes back while the step still ends would be drained, and the job held.
    slurm.wait_for(lambda: not slurm.output("pgrep", "-f", rf"slurmstepd: \[{job}\."), 60)
    (study.root / "slow").unlink()
    before = set(study.finished())
    lost = before - study.stored()
    slurm.output("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")
    slurm.output("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would hold it back for two minutes
    assert controller.wait(240) == 0, study.tail()
    recovered("node set down", before, lost)


@pytest.mark.campaign
def test_both_controllers_end_and_start_again(study: Study, cluster: Cluster, recovered: Callable):
    """Slurm's own restarts under a running job; the one that a killed snakemake left is waited for, not repeated."""
    killed = study.start(*SNAKEMAKE, "--", ARTIFACT)
    study.wait_for(lambda: study.finished().total() > 0, 120)
    cluster.stop("slurmctld")
    killed.kill()
    killed.wait()
    before = set(study.finished())
    (study.root / "slow").unlink()
    cluster.start_controller()
    assert study.start(*SNAKEMAKE, "--unlock").wait(60) == 0
    study.finish("--", ARTIFACT)
    recovered("kill of snakemake and slurmctld", before, set())
    slurm.wait_for(lambda: not study.jobs(JobState="RUNNING"))
