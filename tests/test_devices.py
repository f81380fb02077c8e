"""Jobs of one machine never share a GPU, and a job that would run something else than was planned stops."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run.errors import UserError
from scripts.run.planned import VARIABLE, check_planned, packages_digest
from tests.conftest import ROOT, Copy

STAGE = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(float(sys.argv[1]))"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a module that tells its GPUs and sleeps."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path


def start(root: Path, gpus: int, seconds: float, **environment: str) -> subprocess.Popen:
    """A job on a machine that offers three GPUs."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.run.devices", str(gpus), "stage", str(seconds)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=known | {"CUDA_VISIBLE_DEVICES": "0,1,2", "TMPDIR": str(root)} | environment,
    )  # fmt: skip


def test_jobs_never_share_a_gpu(root: Path):
    """Two hold three GPUs; a third waits, says so, and gets those of the one that is killed."""
    first = start(root, 2, 60)
    assert first.stdout.readline() == "0,1\n"
    second = start(root, 1, 60)
    assert second.stdout.readline() == "2\n"
    third = start(root, 2, 0)
    assert "waits for 2 of the GPUs 0, 1, 2" in third.stderr.readline()
    assert third.poll() is None
    first.kill()
    assert third.communicate(timeout=20)[0] == "0,1\n"
    second.kill()
    for process in (first, second):
        process.communicate()


@pytest.mark.parametrize("slurm", [{}, {"SLURM_JOB_ID": "1"}])
def test_fewer_gpus_than_needed_end_the_job(root: Path, slurm: dict[str, str]):
    done = start(root, 4, 0, **slurm)
    assert "the job needs 4 GPUs, but was given 3 (0, 1, 2)" in done.communicate(timeout=20)[1]
    assert done.returncode == 1


def test_slurm_hands_out_gpus_itself(root: Path):
    """Each job sees its own as number 0, which says nothing about those of others."""
    jobs = [start(root, 1, 1, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=str(number)) for number in range(2)]
    assert [job.communicate(timeout=20)[0] for job in jobs] == ["0\n", "0\n"]


def test_the_status_of_the_stage_is_that_of_the_job(root: Path):
    job = start(root, 1, 60)
    assert job.stdout.readline() == "0\n"
    job.terminate()
    job.communicate()
    assert job.returncode == -15


@pytest.fixture
def planned(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What snakemake noted of the module `stage`."""
    monkeypatch.chdir(root)
    monkeypatch.setenv(VARIABLE, packages_digest())
    digest = subprocess.run(["sha256sum", "stage.py"], check=True, capture_output=True, text=True).stdout
    (root / "results/code").mkdir(parents=True)
    (root / "results/code/stage.txt").write_text(f"{digest}torch==2.0\n")
    return root


def test_what_was_planned_runs(planned: Path):
    check_planned("stage")


def test_other_code_is_refused_with_both_digests(planned: Path):
    (planned / "stage.py").write_text("")
    with pytest.raises(UserError, match=r"stage.py on \S+ has the digest e3b0c4429\w+, that .* planned with \w{64} "):
        check_planned("stage")


def test_other_packages_are_refused_with_both_digests(planned: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "0" * 64)
    with pytest.raises(UserError, match=rf"have the digest {packages_digest()}, those .* planned with 0{{64}}"):
        check_planned("stage")


def test_the_workstation_profile_keeps_jobs_apart(copy: Copy, tmp_path: Path):
    """Two jobs start at once, for snakemake was told of eight GPUs; there is one, so the second waits for the first."""
    targets = [f"results/quantize/tiny-qwen-s/rtn/{scheme}/manifest.json" for scheme in ("w3", "w2g32")]
    done = copy.snakemake(
        "--profile", "profiles/workstation", "--", *targets, CUDA_VISIBLE_DEVICES="0", TMPDIR=str(tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((copy.root / target).with_name("record.json").read_text()) for target in targets]
    first, second = sorted((record["start"], record["end"]) for record in records)
    assert first[1] < second[0]
    logs = [copy.root / f"results/logs/quantize/tiny-qwen-s/rtn/{scheme}.log" for scheme in ("w3", "w2g32")]
    assert [path for path in logs if "waits for 1 of the GPUs 0" in path.read_text()]
