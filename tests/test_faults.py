"""Real processes, really disturbed: after each fault a rerun ends in the tables of an undisturbed run.

`make test` runs a short choice; `make faults` the whole campaign. Both print what was lost and repeated. What is
finished is witnessed outside the store: the copy's `Store.add` also notes each sample in a file, and writes segments
every second so that short runs have some.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import libfaketime
import psutil
import pyarrow.parquet as pq
import pytest

from scripts.generate.store import read_segment, segments
from tests.conftest import TINY_STUDY, Copy

CELL = "tiny-qwen-s/rtn/w3"
ARTIFACT = f"results/generate/{CELL}/arithmetic.parquet"
SHARD = f"results/quantize/{CELL}/checkpoint/model.safetensors"
SAMPLES = "results/store/samples"
# These two stand for all.
TABLES = [f"results/report/tiny/{name}.parquet" for name in ("summary", "drops")]
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--configfile", "config/tiny.yaml", "--cores", "2")
BUILD = (*SNAKEMAKE, "--", *TABLES)
GRID = [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3"]}]
SUITE = TINY_STUDY["suites"]["arithmetic"] | {"benchmarks": ["addition"], "seeds": [42, 43, 44, 45]}
STUDY = {
    "studies": {"tiny": {"suites": ["arithmetic"], "grid": GRID}},
    "suites": {"arithmetic": SUITE},
    "corpora": {},
}
EDITS = {
    "FLUSH_SECONDS = 20": "FLUSH_SECONDS = 1",
    "        self.samples[sample] = row\n": "        self.samples[sample] = row\n"
    '        with open("finished.txt", "a") as witness:\n            witness.write(sample + "\\n")\n'
    '        time.sleep(0.2 * os.path.exists("slow"))\n',
}


class Watched(Copy):
    """A copy of the repository whose store is watched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write_config(STUDY)
        path = root / "scripts/generate/store.py"
        source = path.read_text()
        for old, new in EDITS.items():
            assert old in source
            source = source.replace(old, new)
        path.write_text(source)

    def build(self, *arguments: str) -> None:
        super().build(*arguments, "--", *TABLES)

    def finished(self) -> Counter:
        """How often the engine finished each sample."""
        witness = self.root / "finished.txt"
        return Counter(witness.read_text().split()) if witness.exists() else Counter()

    def stored(self) -> set[str]:
        """Samples in whole segments."""
        tables = [read_segment(path) for path in segments(self.root / SAMPLES)]
        return {sample for table in tables if table is not None for sample in table["sample"].to_pylist()}

    def tables(self) -> list[bytes]:
        return [(self.root / path).read_bytes() for path in TABLES]

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        """A process in a session of its own; its output goes to `output.txt`."""
        with (self.root / "output.txt").open("a") as output:
            return subprocess.Popen(
                command, cwd=self.root, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"PATH": self.path} | environment,
            )  # fmt: skip

    def start_generate(self, **environment: str) -> subprocess.Popen:
        """The generate job as its record says it was started."""
        return self.start(sys.executable, *self.command, **environment)

    def output(self) -> str:
        """What was printed since the fault began, logs of rules included."""
        logs = sorted((self.root / "results/logs").rglob("*.log"))
        return "".join(path.read_text() for path in [self.root / "output.txt", *logs])

    def wait_for(self, happened: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.output()[-5000:]
            time.sleep(0.05)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    study = Watched(tmp_path_factory.mktemp("undisturbed") / "repository")
    study.build()
    return study


@pytest.fixture
def study(undisturbed: Watched, tmp_path: Path) -> Watched:
    """The undisturbed study, moved elsewhere, one checkpoint of which has not been asked yet."""
    study = Watched.__new__(Watched)
    study.root = tmp_path / "study"
    subprocess.run(["cp", "-a", undisturbed.root, study.root], check=True)  # hard links stay hard links
    record = json.loads((study.root / ARTIFACT).with_suffix(".record.json").read_text())
    study.command = record["command"][1:]
    asked = set(pq.read_table(study.root / ARTIFACT, columns=["sample"])["sample"].to_pylist())
    for segment in segments(study.root / SAMPLES):
        if asked & set(read_segment(segment)["sample"].to_pylist()):
            segment.unlink()
    for path in ("finished.txt", "output.txt"):
        (study.root / path).write_text("")
    (study.root / ARTIFACT).unlink()
    for path in (f"results/score/{CELL}", "results/report"):
        shutil.rmtree(study.root / path)
    return study


@pytest.fixture
def recovers(study: Watched, undisturbed: Watched, record_property: Callable) -> Callable[..., None]:
    def rerun(fault: str) -> None:
        """Build again: the tables are as ever, and generated twice is exactly what the fault destroyed."""
        before = study.finished()
        lost = set(before) - study.stored()
        study.build()
        after = study.finished()
        repeated = {sample for sample, count in after.items() if count > 1}
        equal = study.tables() == undisturbed.tables()
        record_property("fault", [fault, before.total(), len(lost), len(repeated), equal])
        assert equal
        assert repeated == lost
        assert max(after.values(), default=1) <= 2

    return rerun


def campaign(count: int) -> list:
    """Numbers of a fault's trials, of which only the first belongs to the short choice."""
    return [0, *(pytest.param(number, marks=pytest.mark.campaign) for number in range(1, count))]


@pytest.mark.parametrize("number", campaign(20))
def test_generate_killed(study: Watched, undisturbed: Watched, recovers: Callable, number: int):
    record = json.loads((undisturbed.root / ARTIFACT).with_suffix(".record.json").read_text())
    process = study.start_generate()
    # The first while it generates, the others at any moment.
    if number == 0:
        study.wait_for(lambda: study.finished().total() > 500)
    else:
        time.sleep(random.Random(number).uniform(0, record["wall_seconds"] + 3))
    process.kill()
    process.wait()
    recovers("kill -9 of generate")


def is_engine(process: psutil.Process) -> bool:
    return "EngineCore" in process.name()


def test_engine_killed(study: Watched, recovers: Callable):
    """The engine in a process of its own, as on GPUs."""
    process = study.start_generate(VLLM_ENABLE_V1_MULTIPROCESSING="1")
    found: list[psutil.Process] = []
    study.wait_for(lambda: found or found.extend(filter(is_engine, psutil.Process(process.pid).children(True))))
    study.wait_for(lambda: study.finished().total() > 0, 120)
    found[0].kill()
    assert process.wait(60) == 1
    assert "error: generate tiny-qwen-s/rtn/w3/arithmetic: a process of the engine died" in study.output()
    assert set(study.finished()) <= study.stored()
    recovers("kill -9 of the engine's process")


def test_snakemake_killed(study: Watched, recovers: Callable):
    """Its job goes on; the job that a new snakemake starts waits for it instead of doing the same."""
    process = study.start(*BUILD)
    study.wait_for(lambda: study.finished().total() > 0)
    process.kill()
    process.wait()
    assert study.start(*SNAKEMAKE, "--unlock").wait(60) == 0
    recovers("kill -9 of snakemake")


def test_two_at_once(study: Watched, recovers: Callable):
    """The first is slow until the second is there: else it may be done before."""
    slow = study.root / "slow"
    slow.touch()
    processes = [study.start_generate() for _ in range(2)]
    waits = r"w3/arithmetic: waits, because process \d+ on \S+ is doing the same work"
    study.wait_for(lambda: re.search(waits, study.output()), 300)
    slow.unlink()
    assert [process.wait(600) for process in processes] == [0, 0]
    recovers("two generates at once")


def in_namespace(study: Watched, script: str) -> None:
    """Run a script that may mount file systems which nobody else sees."""
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        assert "CI" not in os.environ, "unshare -rm does not work here"
        pytest.skip("unshare -rm does not work here")
    assert study.start("unshare", "-rm", "bash", "-euc", script, "-", *BUILD).wait(600) == 0, study.output()


def test_disk_full(study: Watched, recovers: Callable):
    """Room for half of the samples."""
    in_namespace(
        study,
        """
        mv results whole
        mkdir results
        mount -t tmpfs small results
        cp -a whole/. results/
        used=$(df --output=used -B1 results | tail -1)
        mount -o remount,size=$((used + 24000)) results
        ! "$@"
        rm -r whole/* && cp -a results/. whole/ && umount results && rmdir results && mv whole results
        """,
    )
    assert "No space left on device: make room there or allow writing, and run again" in study.output()
    assert "Traceback" not in study.output()
    assert set(study.finished()) - study.stored()  # the disk was full before all was finished
    recovers("ENOSPC")


def test_results_read_only(study: Watched, recovers: Callable):
    in_namespace(study, 'mount --bind results results && mount -o remount,bind,ro results && ! "$@"')
    assert "results/ cannot be written" in study.output()
    assert "Traceback" not in study.output()
    recovers("read-only results")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [pytest.param(truncate, marks=pytest.mark.campaign), pytest.param(flip_bit, marks=pytest.mark.campaign)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_segment_damaged(study: Watched, recovers: Callable, damage: Callable[[Path], None]):
    assert study.start_generate().wait(600) == 0
    (study.root / ARTIFACT).unlink()
    whole = study.stored()
    segment = next(
        path
        for path in segments(study.root / SAMPLES)
        if set(read_segment(path)["sample"].to_pylist()) <= set(study.finished())
    )
    damage(segment)
    assert study.stored() < whole
    recovers(f"{damage.__name__} a segment")
    named = study.start(sys.executable, "-m", "scripts.generate.store", "verify")
    assert named.wait(60) == 0  # set aside by the rerun, which named it
    assert segment.name in {path.name.split(".", 1)[1] for path in (study.root / "results/store/damaged").iterdir()}


def follow_cures(study: Watched) -> list[str]:
    """Build until it succeeds, each time deleting what the error says."""
    deleted = []
    for _ in range(4):
        (study.root / "output.txt").write_text("")
        if study.start(*BUILD).wait(600) == 0:
            return deleted
        assert "Traceback" not in study.output()
        path = re.search(r"error: .*: delete (\S+) and run again", study.output())[1]
        target = study.root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        deleted.append(path)
    raise AssertionError(study.output())


@pytest.mark.parametrize("damage", DAMAGES)
def test_table_damaged(study: Watched, recovers: Callable, damage: Callable[[Path], None]):
    """The samples of a checkpoint, which the scores are made from."""
    assert study.start_generate().wait(600) == 0
    damage(study.root / ARTIFACT)
    assert follow_cures(study) == [ARTIFACT]
    recovers(f"{damage.__name__} a Parquet file")


@pytest.mark.parametrize("damage", DAMAGES)
def test_shard_damaged(study: Watched, recovers: Callable, damage: Callable[[Path], None]):
    """A checkpoint's weights, and with them those of its hard link in the store."""
    damage(study.root / SHARD)
    assert follow_cures(study) == [f"results/quantize/{CELL}"]
    assert "is damaged (model.safetensors is missing or altered); made anew" in study.output()
    recovers(f"{damage.__name__} a checkpoint shard")


@pytest.mark.campaign
def test_clock_set_back(study: Watched, recovers: Callable):
    """An hour, while generate runs: what it makes is older than what it was made from."""
    library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
    started = time.time()
    process = study.start_generate(LD_PRELOAD=str(library), FAKETIME="-1h", FAKETIME_DONT_FAKE_MONOTONIC="1")
    assert process.wait(600) == 0
    for path in (study.root / "results").rglob("*"):
        if (status := path.stat()).st_mtime >= started:
            os.utime(path, (status.st_atime - 3600, status.st_mtime - 3600))
    made = json.loads((study.root / ARTIFACT).with_suffix(".record.json").read_text())["end"]
    assert datetime.fromisoformat(made).timestamp() < started - 3000
    recovers("a clock set back")


@pytest.mark.campaign
def test_results_moved(study: Watched, undisturbed: Watched, recovers: Callable, tmp_path: Path):
    """Into another clone, which has no memory of how they were made: all is linked, nothing is made."""
    assert study.start_generate().wait(600) == 0
    clone = Watched(tmp_path / "clone")
    for path in clone.root.rglob("*"):
        path.touch()
    for name in ("results", "finished.txt", "output.txt"):
        (study.root / name).rename(clone.root / name)
    study.root = clone.root
    recovers("results moved")
    made = json.loads((study.root / "results/quantize" / CELL / "record.json").read_text())
    assert "stored" in made["facts"]
