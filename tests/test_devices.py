"""Jobs of one machine never share a GPU, and a job that would run something else than was planned stops."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.generate.start import tensor_parallel_size
from scripts.run import devices, machine
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
    """A job on a machine that offers three GPUs, and has no driver."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.run.devices", str(gpus), "stage", str(seconds)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=known
        | {"CUDA_VISIBLE_DEVICES": "0,1,2", "TMPDIR": str(root), "PATH": driver(root / "none", "", 9)}
        | environment,
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
    assert third.communicate(timeout=120)[0] == "0,1\n"
    second.kill()
    for process in (first, second):
        process.communicate()


@pytest.mark.parametrize("slurm", [{}, {"SLURM_JOB_ID": "1"}])
def test_fewer_gpus_than_needed_end_the_job(root: Path, slurm: dict[str, str]):
    done = start(root, 4, 0, **slurm)
    assert "the job needs 4 GPUs, but was given 3 (0, 1, 2)" in done.communicate(timeout=120)[1]
    assert done.returncode == 1


def test_slurm_hands_out_gpus_itself(root: Path):
    """Each job sees its own as number 0, which says nothing about those of others."""
    jobs = [start(root, 1, 1, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=str(number)) for number in range(2)]
    assert [job.communicate(timeout=120)[0] for job in jobs] == ["0\n", "0\n"]


def test_the_status_of_the_stage_is_that_of_the_job(root: Path):
    job = start(root, 1, 60)
    assert job.stdout.readline() == "0\n"
    job.terminate()
    job.communicate()
    assert job.returncode == -15


DRIVER = """GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc-3)
  MIG 3g.40gb     Device  1: (UUID: MIG-dddd-4)
GPU 2: NVIDIA A100 (UUID: GPU-eeee-5)
"""
SHOWN = ["GPU-aaaa-1", "MIG-cccc-3", "MIG-dddd-4", "GPU-eeee-5"]


def driver(folder: Path, answer: str, status: int = 0) -> str:
    """PATH with a driver's program that gives this answer."""
    path = folder / "driver/nvidia-smi"
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "driver/answer").write_text(answer)
    path.write_text(
        f'#!/bin/sh\ncd {folder}/driver\nif [ "$*" = -L ]; then cat answer; else cat cards; fi\nexit {status}\n'
    )
    (folder / "driver/cards").write_text(
        "NVIDIA A100, 81920, 570.1\nNVIDIA H100, 81559, 570.1\nNVIDIA A100, 40960, 570.1\n"
    )
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("named", "offered"),
    [
        (None, SHOWN),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", ["GPU-eeee-5", "GPU-aaaa-1"]),
        ("1", ["MIG-cccc-3", "MIG-dddd-4"]),
        ("GPU-eeee-5, 0, 0", ["GPU-eeee-5", "GPU-aaaa-1"]),
        ("GPU-ee", ["GPU-eeee-5"]),
        ("MIG-dddd-4", ["MIG-dddd-4"]),
    ],
)
def test_gpus_are_those_that_the_driver_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, offered: list[str]
):
    monkeypatch.setenv("PATH", driver(tmp_path, DRIVER))
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(devices.VISIBLE, named)
    assert devices.devices() == offered


def test_a_record_tells_the_gpus_of_its_job_and_starts_no_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of an instance the card; what would start CUDA in this process fails here, as there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", driver(tmp_path, DRIVER))
    monkeypatch.setenv(devices.VISIBLE, "MIG-dddd-4,2")
    found = machine.gpu()
    assert found["gpus"] == [
        {"name": "NVIDIA H100", "memory_bytes": 81559 << 20, "driver": "570.1"},
        {"name": "NVIDIA A100", "memory_bytes": 40960 << 20, "driver": "570.1"},
    ]
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("named", ["3", "GPU-ffff", "MIG-", "0,7"])
def test_a_gpu_that_the_driver_does_not_show_is_refused(root: Path, named: str):
    done = start(root, 1, 0, CUDA_VISIBLE_DEVICES=named, PATH=driver(root, DRIVER))
    message = done.communicate(timeout=120)[1]
    assert (
        f"error: CUDA_VISIBLE_DEVICES names {named.rsplit(',', maxsplit=1)[-1]}, but the driver shows GPU-aaaa-1, MIG"
        in message
    )
    assert done.returncode == 1


@pytest.mark.parametrize(("nodes", "offered"), [((), []), ((3,), ["0"]), ((2, 5), ["0", "1"])])
def test_without_the_drivers_program_cuda_counts_from_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: tuple[int, ...], offered: list[str]
):
    """A container holds the host's nodes of its own GPUs only."""
    for name in ("nvidiactl", *(f"nvidia{number}" for number in nodes)):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path)
    monkeypatch.setattr(devices, "driver_gpus", lambda: None)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    assert devices.devices() == offered


def test_the_same_gpu_has_one_lock_under_all_its_names(root: Path):
    """A container, a shell and two Slurm jobs number GPUs differently; who is given more takes what was planned."""
    path = driver(root, DRIVER)
    first = start(root, 1, 60, CUDA_VISIBLE_DEVICES="2", SLURM_JOB_ID="76", PATH=path)
    assert first.stdout.readline() == "GPU-eeee-5\n"
    driver(root, "GPU 0: NVIDIA A100 (UUID: GPU-eeee-5)\nGPU 1: NVIDIA H100 (UUID: GPU-ffff-6)\n")
    second = start(root, 1, 60, CUDA_VISIBLE_DEVICES="0,1", SLURM_JOB_ID="77", PATH=path)
    assert second.stdout.readline() == "GPU-ffff-6\n"
    third = start(root, 1, 0, CUDA_VISIBLE_DEVICES="0,1", PATH=path)
    assert "waits for 1 of the GPUs GPU-eeee-5, GPU-ffff-6" in third.stderr.readline()
    first.kill()
    assert third.communicate(timeout=120)[0] == "GPU-eeee-5\n"
    second.kill()
    for process in (first, second):
        process.communicate()


def test_jobs_inside_one_allocation_share_it(root: Path):
    """A snakemake inside `salloc` starts its jobs itself: each takes its own of the GPUs that Slurm gave them all."""
    jobs = [start(root, 1, 60, CUDA_VISIBLE_DEVICES="0,1,2", SLURM_JOB_ID="77") for _ in range(3)]
    assert sorted(job.stdout.readline() for job in jobs) == ["0\n", "1\n", "2\n"]
    for job in jobs:
        job.kill()
        job.communicate()


FOLDERS = {
    "a link to a folder": lambda path: path.symlink_to(path.parent / "elsewhere"),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a file": lambda path: path.write_text(""),
    "a folder that all may write to": lambda path: (path.mkdir(), path.chmod(0o777)),
    "a folder that the group may enter": lambda path: (path.mkdir(), path.chmod(0o750)),
    "a link in a lock's place": lambda path: (path.mkdir(mode=0o700), (path / "machine-0").symlink_to("../stolen")),
    "a folder in a lock's place": lambda path: (path / "machine-0").mkdir(parents=True) or path.chmod(0o700),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_locks_are_ours_alone(root: Path, name: str):
    """Whatever somebody put there beforehand: nothing is made elsewhere, and the job says what to delete."""
    (root / "elsewhere").mkdir()
    FOLDERS[name](root / f"gpus-of-{os.getuid()}")
    job = start(root, 1, 0)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 1
    assert said.startswith(f"error: {root}/gpus-of-{os.getuid()}") and "delete it" in said
    assert not list((root / "elsewhere").iterdir()) and not {"nowhere", "stolen"} & {p.name for p in root.iterdir()}


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes folders of others")
def test_locks_of_another_user_are_refused(root: Path):
    folder = root / "gpus-of-0"
    folder.mkdir(mode=0o700)
    os.chown(folder, 1234, 1234)
    assert f"error: {folder}, where GPUs are locked, belongs to user 1234" in start(root, 1, 0).communicate()[1]


def test_a_job_planned_without_gpus_sees_none(root: Path):
    assert start(root, 0, 0).communicate(timeout=120)[0] == "\n"


@pytest.mark.parametrize(
    ("taken", "seen", "right"), [("2", 2, True), ("1", 4, False), ("2", 1, False), ("1", 0, False)]
)
def test_the_engine_refuses_another_number_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, seen: int, right: bool
):
    monkeypatch.setenv("PATH", driver(tmp_path, DRIVER))
    monkeypatch.setenv(devices.VARIABLE, taken)
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    if right:
        assert tensor_parallel_size() == seen
        return
    with pytest.raises(UserError, match=rf"planned with {taken} GPUs, but sees {seen} "):
        tensor_parallel_size()


def test_the_number_taken_reaches_the_engine(root: Path):
    (root / "stage.py").write_text("import os; print(os.environ['PLANNED_GPUS'])")
    assert start(root, 2, 0).communicate(timeout=120)[0] == "2\n"
    hidden = start(root, 2, 0, CUDA_VISIBLE_DEVICES="", PLANNED_GPUS="8")
    assert "KeyError" in hidden.communicate(timeout=120)[1]  # cores only, whatever was left from outside


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
    targets = [f"results/quantize/tiny-qwen-s/awq/{scheme}/manifest.json" for scheme in ("w3g32", "w2g32")]
    done = copy.snakemake(
        "--profile", "profiles/workstation", "--", *targets, CUDA_VISIBLE_DEVICES="0", TMPDIR=str(tmp_path)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((copy.root / target).with_name("record.json").read_text()) for target in targets]
    first, second = sorted((record["start"], record["end"]) for record in records)
    assert first[1] < second[0]
    logs = [copy.root / f"results/logs/quantize/tiny-qwen-s/awq/{scheme}.log" for scheme in ("w3g32", "w2g32")]
    assert [path for path in logs if "waits for 1 of the GPUs 0" in path.read_text()]
