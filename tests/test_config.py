"""Bad configurations end in one sentence that names the file and the key, before anything is touched."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.run.config import load
from scripts.run.describe import document
from scripts.run.errors import UserError
from tests.conftest import ROOT, Copy

CONFIG, QUANTIZERS = "config/tiny.yaml", "config/quantizers.yaml"
MODELS = "config/models/"
TINY, QWEN3 = f"{MODELS}tiny-qwen-s.yaml", f"{MODELS}qwen3-8b.yaml"
DATASETS = "config/datasets.tsv"
OLD_RESULTS = ("results/report/tiny/accuracy.parquet", "results/models/tiny-qwen-s/manifest.json")

# what is wrong: file, text to replace, replacement, words that the message must hold
BAD = {
    "unknown key": (CONFIG, "studies:", "studys:", ["studys", "studies"]),
    "verdict misspelt": (
        CONFIG, "    suites:\n", "    verdict: final\n    suites:\n", ["studies.tiny.verdict", "correct_final"],
    ),
    "margins the wrong way round": (
        CONFIG, "    suites:\n", "    margins: {lossless: 3, risky: 1}\n    suites:\n",
        ["studies.tiny.margins", "lossless", "risky"],
    ),
    "a margin is missing": (
        CONFIG, "    suites:\n", "    margins: {lossless: 1}\n    suites:\n", ["tiny.margins", "risky"],
    ),
    "a margin is no number": (
        CONFIG, "    suites:\n", "    margins: {lossless: 1, risky: .nan}\n    suites:\n", ["margins.risky", "nan"],
    ),
    "a margin of nothing": (
        CONFIG, "    suites:\n", "    margins: {lossless: 0, risky: 3}\n    suites:\n", ["tiny.margins.lossless", "0"],
    ),
    "published score of no benchmark": (
        TINY, "facts:", "expected:\n  adition: {accuracy: 9, source: x}\nfacts:",
        [TINY, "expected", "adition", "addition"],
    ),
    "published score beyond all": (
        TINY, "facts:", "expected:\n  addition: {accuracy: 101, source: x}\nfacts:",
        ["expected.addition.accuracy", "101"],
    ),
    "unknown key of a suite": (CONFIG, "top_p: 0.95", "topp: 0.95", ["suites.arithmetic", "topp", "top_p"]),
    "model misspelt": (CONFIG, "- tiny-qwen-s", "- tiny-qwen-z", ["studies.tiny.grid", "tiny-qwen-z", "tiny-qwen-s"]),
    "quantizer misspelt": (CONFIG, "rtn/w3", "rnt/w3", ["studies.tiny.grid", "rnt/w3", "rtn/w3"]),
    "scheme not offered": (CONFIG, "rtn/w3", "rtn/w5", ["studies.tiny.grid", "rtn/w5"]),
    "suite misspelt": (CONFIG, "- arithmetic", "- arithmetik", ["studies.tiny.suites", "arithmetik", "arithmetic"]),
    "benchmark misspelt": (CONFIG, "- addition", "- adition", ["suites.arithmetic.benchmarks", "adition", "addition"]),
    "corpus with an unknown suite": (CONFIG, "suite: own_reasoning", "suite: own", ["corpora.reasoning.suite", "own"]),
    "corpus that a scheme needs is missing": (CONFIG, "  reasoning:\n", "  thoughts:\n", ["reasoning", "gptq/w3g32"]),
    "corpus of two kinds": (CONFIG, "suite: own_reasoning", "suite: own_reasoning\n    text: a", ["corpora.reasoning"]),
    "text is missing": (CONFIG, "calibrate/plain.txt", "calibrate/plane.txt", ["corpora.plain.text", "plane.txt"]),
    "seed is no integer": (CONFIG, "- 43", "- 43a", ["suites.arithmetic.seeds.1", "43a", "integer"]),
    "seed is negative": (CONFIG, "- 43", "- -43", ["suites.arithmetic.seeds.1", "-43"]),
    "seed twice": (CONFIG, "- 43", "- 42", ["suites.arithmetic.seeds", "42"]),
    "sampling of two kinds": (
        CONFIG, "top_p: 0.95", "top_p: 0.95\n    sampling: recommended", ["suites.arithmetic", "sampling", "top_p"],
    ),
    "sampling that nobody recommends": (
        CONFIG, "temperature: 0.6\n    top_p: 0.95", "sampling: recommended",
        ["suites.arithmetic.sampling", "tiny-qwen-s", "facts.sampling", "temperature"],
    ),
    "no sampling": (CONFIG, "    top_p: 0.95\n", "", ["suites.arithmetic", "top_p"]),
    "temperature is a word": (CONFIG, "temperature: 0.6", "temperature: hot", ["suites.arithmetic.temperature", "hot"]),
    "temperature is no number": (CONFIG, "temperature: 0.6", "temperature: .nan", ["arithmetic.temperature", "nan"]),
    "top_p is no number": (CONFIG, "top_p: 0.95", "top_p: .nan", ["suites.arithmetic.top_p", "nan"]),
    "temperature has no end": (CONFIG, "temperature: 0.6", "temperature: .inf", ["arithmetic.temperature", "inf"]),
    "seed beyond any machine's": (CONFIG, "- 43", f"- {2**200}", ["suites.arithmetic.seeds.1", "4294967295"]),
    "length beyond any model's": (CONFIG, "length: 128", f"length: {10**18}", ["corpora.reasoning.length", "16777216"]),
    "line feed in a name": (CONFIG, "  baselines:", '  "baselines\\n":', ["studies", "not printed"]),
    "escape in a name": (CONFIG, "  baselines:", '  "base\\elines":', ["studies", "not printed"]),
    "repository that climbs": (QWEN3, "Qwen/Qwen3-8B", "../..", ["qwen3-8b", "repository", "../.."]),
    "aliases of aliases": (
        CONFIG, "studies:",
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)) + "studies:",
        ["aliases", "100,000"],
    ),
    "an alias of itself": (CONFIG, "studies:", "a: &a [*a]\nstudies:", ["aliases"]),
    "top_p above 1": (CONFIG, "top_p: 0.95", "top_p: 1.5", ["suites.arithmetic.top_p", "1.5"]),
    "token limit beyond the context": (CONFIG, "len: 256", "len: 4096", ["arithmetic.max_model_len", "4096", "512"]),
    "no room behind the thought": (
        CONFIG, "max_model_len: 256", "thinking_tokens: 256\n    max_model_len: 256",
        ["arithmetic.thinking_tokens", "256"],
    ),
    "questions of another benchmark": (
        CONFIG, "max_model_len: 256", "questions: {additon: 5}\n    max_model_len: 256",
        ["suites.arithmetic.questions", "additon", "did you mean 'addition'"],
    ),
    "words misspelt": (
        CONFIG, "max_model_len: 256", "discourage: hesitate\n    max_model_len: 256",
        ["suites.arithmetic.discourage", "hesitate", "did you mean 'hesitation'"],
    ),
    "suite twice in a study": (
        CONFIG, "- arithmetic\n", "- arithmetic\n    - arithmetic\n", ["studies.tiny.suites", "arithmetic"],
    ),
    "benchmark without a scorer": (
        CONFIG, "- addition", "- calibration\n    - addition", ["calibration"],
    ),
    "no baseline": (CONFIG, "      - none/full\n", "", ["studies.tiny.grid", "tiny-qwen-s", "none/full"]),
    "scheme twice": (CONFIG, "- rtn/w3\n", "- rtn/w3\n      - rtn/w3\n", ["studies.tiny.grid.0.schemes", "rtn/w3"]),
    "cell in two blocks": (CONFIG, "- tiny-qwen-m", "- tiny-qwen-s", ["studies.tiny.grid", "tiny-qwen-s", "2 times"]),
    "key twice": (CONFIG, "corpora:", "suites: {}\ncorpora:", ["suites", "twice"]),
    "study's name is a path": (CONFIG, "  baselines:", "  ../baselines:", ["studies", "../baselines"]),
    "setting missing": (QUANTIZERS, "w3: {bits: 3, group_size: -1}", "w3: {bits: 3}", ["rtn.schemes.w3", "group_size"]),
    "setting unknown": (QUANTIZERS, "mse: 2.4", "mze: 2.4", ["gptq.schemes", "mze", "mse"]),
    "bits not offered": (QUANTIZERS, "w3: {bits: 3", "w3: {bits: 5", ["rtn.schemes.w3.bits", "5"]),
    "packed at three bits": (
        QUANTIZERS, "w4g128-packed: {bits: 4", "w4g128-packed: {bits: 3", ["gptq.schemes.w4g128-packed.bits", "4"],
    ),
    "packed in groups without a kernel": (
        QUANTIZERS, "w4g32-packed: {bits: 4, group_size: 32", "w4g16-packed: {bits: 4, group_size: 16",
        ["gptq.schemes.w4g16-packed.group_size", "32, 64, 128"],
    ),
    "packed by a quantizer that does not": (
        QUANTIZERS, "w4: {bits: 4, ", "w4: {bits: 4, packed: true, ", ["rtn.schemes.w4", "packed"],
    ),
    "name and numbers differ": (QUANTIZERS, "w3: {bits: 3", "w3: {bits: 4", ["rtn.schemes.w3", "bits 3"]),
    "not YAML": (QUANTIZERS, "rtn:", "rtn: [", ["not YAML"]),
    "scheme defined twice": (QUANTIZERS, "w3: {", "w4: {", ["w4", "twice"]),
    "groups that do not divide": (
        TINY, "size: 192", "size: 200", ["studies.tiny.grid", "rtn/w2g32", "group_size 32", "tiny-qwen-s", "200"],
    ),
    "quantizer without a schema": (QUANTIZERS, "rtn:", "rtx:", ["rtx", "rtn"]),
    "fact twice": (TINY, "  heads: 2\n", "  heads: 2\n  heads: 4\n", ["heads", "twice"]),
    "fact misspelt": (TINY, "dtype:", "dtipe:", ["dtype"]),
    "choice misspelt": (TINY, "origin:", "orign:", ["orign", "origin"]),
    "parameters are no integer": (TINY, "204416", "0.2M", ["facts.parameters", "0.2M"]),
    "source unknown": (TINY, "by: arithmetic", "by: aritmetic", ["trained_by", "aritmetic", "arithmetic"]),
    "model from nowhere": (QWEN3, "repository: Qwen/Qwen3-8B\n", "", ["repository, folder, trained_by", "none"]),
    "model from two places": (QWEN3, "facts:", "folder: /mine\nfacts:", ["repository and folder"]),
    "model of the hub at a branch": (
        QWEN3, "b968826d9c46dd6066d109eabc6255188de91218", "main", ["facts.revision", "main", "scripts.models.add"],
    ),
    "a day that is none": (QWEN3, "facts:", "date: 2026-02-30\nfacts:", ["date", "2026-02-30"]),
    "dataset twice": (DATASETS, "gsm8k\t", "math500\t", ["math500", "twice"]),
    "column misspelt": (DATASETS, "\trows", "\trowz", ["rowz", "rows"]),
    "revision is a branch": (DATASETS, "\tafe461e\t", "\tmain\t", ["aime90", "revision", "main"]),
    "file above the repository": (DATASETS, "\ttest.jsonl\t", "\t../t.jsonl\t", ["math500", "files", "../t.jsonl"]),
    "dataset of a misspelt benchmark": (DATASETS, "\tgsm8k\t", "\tgsm8\t", ["gsm8k", "used_by", "gsm8"]),
    "corpus of a misspelt dataset": (
        CONFIG, "text: resources/calibrate/plain.txt", "dataset: pille", ["corpora.plain.dataset", "pille", "pile"],
    ),
    "text cut into documents": (
        CONFIG, "text: resources/calibrate/plain.txt", "text: resources/calibrate/plain.txt\n    cut: blocks",
        ["corpora.plain", "dataset"],
    ),
    "local copy of a misspelt dataset": (
        CONFIG, "corpora:", "local: {datasets: {pille: config}}\ncorpora:", ["local.datasets", "pille", "pile"],
    ),
    "local copy of a part without its rows": (
        CONFIG, "corpora:", "local: {datasets: {pile: {path: config}}}\ncorpora:", ["local.datasets.pile", "rows"],
    ),
    "local copy of a part is missing": (
        CONFIG, "corpora:", "local: {datasets: {pile: {path: /nowhere, rows: 2}}}\ncorpora:",
        ["local.datasets.pile", "/nowhere"],
    ),
    "local copy is missing": (
        CONFIG, "corpora:", "local: {datasets: {pile: /nowhere}}\ncorpora:", ["local.datasets.pile", "/nowhere"],
    ),
    "local copy of a model that is trained here": (
        CONFIG, "corpora:", "local: {models: {tiny-qwen-s: config}}\ncorpora:", ["local.models", "tiny-qwen-s"],
    ),
    "quantizer with a syntax error": ("scripts/quantize/gptq.py", "import os", "import os (", ["line", "syntax"]),
    "module with a syntax error": ("scripts/fakequant/rounding.py", "import torch", "import (", ["line", "syntax"]),
    "import of what is not there": (
        "scripts/score/_math.py", "import logging", "import scripts.score._maths", ["scripts.score._maths"],
    ),
}  # fmt: skip


# Through snakemake itself, one for each place that may be wrong; reading the rest in this process saves minutes.
THROUGH_SNAKEMAKE = (
    "unknown key", "setting unknown", "fact twice", "revision is a branch", "not YAML",
    "quantizer with a syntax error", "module with a syntax error", "import of what is not there",
)  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in which reports of an earlier run lie."""
    copy = Copy(tmp_path_factory.mktemp("config") / "repository")
    for name in OLD_RESULTS:
        (copy.root / name).parent.mkdir(parents=True)
        (copy.root / name).write_text("old")
    return copy


@pytest.fixture
def files(old: Copy) -> Iterator[Path]:
    """The copy's root; what a test edits below it is restored."""
    tracked = [p for folder in ("config", "scripts") for p in (old.root / folder).rglob("*") if p.suffix != ".pyc"]
    before = {path: path.read_bytes() for path in tracked if path.is_file()}
    yield old.root
    for path, content in before.items():
        path.write_bytes(content)


def refused(old: Copy, *arguments: str) -> str:
    """Run snakemake for real, see that it refuses in time and touches nothing, and return its message."""
    before = {path: path.read_bytes() for path in (old.root / "results").rglob("*") if path.is_file()}
    started = time.monotonic()
    done = old.snakemake("--cores", "1", *arguments)
    assert done.returncode != 0
    assert time.monotonic() - started < 30
    message = done.stdout + done.stderr
    assert "Traceback" not in message
    assert {path: path.read_bytes() for path in (old.root / "results").rglob("*") if path.is_file()} == before
    return message


@pytest.mark.parametrize("case", BAD)
def test_bad_config_is_refused(old: Copy, files: Path, case: str, monkeypatch: pytest.MonkeyPatch):
    name, right, wrong, words = BAD[case]
    text = (files / name).read_text()
    assert right in text
    (files / name).write_text(text.replace(right, wrong, 1))
    if case in THROUGH_SNAKEMAKE:
        message = refused(old)
        assert message.count("Error") == 1, message
    else:
        monkeypatch.chdir(files)
        with pytest.raises(UserError) as error:
            load(yaml.safe_load(Path(CONFIG).read_text()), [CONFIG])
        message = str(error.value)
    missing = [word for word in [name, *words] if word not in message]
    assert not missing, f"{missing} not in {message}"


@pytest.mark.parametrize(
    "name", [TINY, DATASETS, QUANTIZERS, "scripts/quantize/gptq.py", "scripts/questions/addition.py"]
)
def test_missing_file_is_refused(old: Copy, files: Path, name: str):
    (files / name).unlink()
    assert Path(name).stem in refused(old)


def test_target_misspelt_is_refused(old: Copy):
    assert "w5" in refused(old, "results/quantize/tiny-qwen-s/rtn/w5/manifest.json")


def test_a_size_without_a_hadamard_matrix_is_refused(old: Copy, files: Path):
    """And its message names the cell that cannot be."""
    for name, right, wrong in [(CONFIG, "- rtn/w2g32", "- quarot/w4a4kv4"), (TINY, "size: 192", "size: 22016")]:
        (files / name).write_text((files / name).read_text().replace(right, wrong, 1))
    message = refused(old)
    for word in ("studies.tiny.grid", "quarot/w4a4kv4", "tiny-qwen-s", "intermediate_size", "11008"):
        assert word in message


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("size: 192", "size: 208", ["intermediate_size / row_groups 2", "104"]),
        ("head_dim: 32", "head_dim: 48", ["head_dim", "48"]),
    ],
)
def test_blocks_of_mxfp4_that_cross_heads_or_row_groups_are_refused(
    old: Copy, files: Path, right: str, wrong: str, words: list[str]
):
    for name, before, after in [(CONFIG, "- rtn/w2g32", "- mxfp4/w4a4kv4"), (TINY, right, wrong)]:
        (files / name).write_text((files / name).read_text().replace(before, after, 1))
    message = refused(old)
    for word in ("studies.tiny.grid", "mxfp4/w4a4kv4", "tiny-qwen-s", "row_groups", *words):
        assert word in message


def test_copies_on_this_machine_are_taken(old: Copy, files: Path, monkeypatch: pytest.MonkeyPatch):
    """A model's is a folder; of a data set it may be a part, whose rows are stated."""
    monkeypatch.chdir(files)
    config = yaml.safe_load((files / CONFIG).read_text())
    config["local"] = {"models": {"qwen3-8b": "config"}, "datasets": {"pile": {"path": "config", "rows": 2}}}
    (files / CONFIG).write_text(yaml.safe_dump(config))
    loaded = load(config, [CONFIG])
    assert loaded.models["qwen3-8b"]["local"] == "config"
    assert (loaded.datasets["pile"]["local"], loaded.datasets["pile"]["rows"]) == ("config", 2)


def test_a_model_in_a_folder_that_is_gone_is_refused_where_it_is_asked_for(
    old: Copy, files: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(files)
    revision = "b968826d9c46dd6066d109eabc6255188de91218"
    text = (files / QWEN3).read_text().replace("repository: Qwen/Qwen3-8B", "folder: /nowhere")
    (files / QWEN3).write_text(text.replace(revision, "ab" * 32))
    config = yaml.safe_load((files / CONFIG).read_text())
    load(config, [CONFIG])
    config["studies"]["tiny"]["grid"].append({"models": ["qwen3-8b"], "schemes": ["none/full"]})
    (files / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"config/models/qwen3-8b.yaml: folder: nothing at /nowhere"):
        load(config, [CONFIG])


def test_the_default_config_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    path = "config/config.yaml"
    config = load(yaml.safe_load(Path(path).read_text()), [path])
    cells = config.cells("default")
    assert len({model for model, _ in cells}) == 4
    assert len({scheme for _, scheme in cells}) >= 8
    assert len(config.benchmarks("default")) == 3
    assert len(config.suites["arithmetic"]["seeds"]) == 3


def test_the_readme_of_the_configuration_follows_from_the_schemas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert Path("config/README.md").read_text() == document()


def test_what_an_error_quotes_cannot_steer_a_terminal():
    assert str(UserError("no file a\x1b[2Jb\u202ec\nnext: é")) == "no file a\\x1b[2Jb\\u202ec\nnext: é"
