"""What Slurm costs: a study through `snakemake --profile slurm` beside the same study without Slurm, both from nothing.

    python -m tests.bench.slurm

Two checkpoints of a tiny model on a Slurm of one node with pretended GPUs (tests/cluster.py).
"""

import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pandas as pd

from tests import cluster as slurm
from tests.bench import size
from tests.cluster import Cluster
from tests.test_slurm import SNAKEMAKE, Study

TARGETS = size((), ("--", "results/questions/addition.parquet"))
LOCAL = (sys.executable, "-m", "snakemake", "--cores", "2")


def seconds(study: Study, *command: str) -> float:
    started = time.monotonic()
    assert study.start(*command).wait(900) == 0, study.tail()
    return time.monotonic() - started


def between(job: dict[str, str], start: str, end: str) -> float:
    return (datetime.fromisoformat(job[end]) - datetime.fromisoformat(job[start])).total_seconds()


def main() -> None:
    if reason := slurm.missing():
        sys.exit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as scratch:
        alone = seconds(Study(Path(scratch, "alone")), *LOCAL, *TARGETS)
        state = Path(scratch, "slurm")
        state.mkdir()
        cluster = Cluster(state)
        cluster.start()
        try:
            study = Study(Path(scratch, "submitted"))
            submitted = seconds(study, *SNAKEMAKE, *TARGETS)
            jobs = study.jobs()
        finally:
            cluster.close()
        timings = [path for path in (study.root / "results/timings").rglob("*.tsv") if "code" not in path.parts]
        working = sum(pd.read_csv(path, sep="\t")["s"].sum() for path in timings)
    running = [between(job, "StartTime", "EndTime") for job in jobs]
    waiting = [between(job, "SubmitTime", "StartTime") for job in jobs]
    print(f"wall, s                     alone {alone:6.0f}   on Slurm {submitted:6.0f}   ratio {submitted / alone:.2f}")
    print(f"jobs                        {len(jobs)}, of {len(timings)} rules' outputs")
    print(f"in the queue, s per job     {sum(waiting) / len(jobs):.1f}")
    print(f"running, s per job          {sum(running) / len(jobs):.1f}, of which at work {working / len(jobs):.1f}")


if __name__ == "__main__":
    main()
