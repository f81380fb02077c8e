"""Tables and sections that hold nothing, as of whoever keeps only his own models: planned, or refused in words."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY_STUDY, Copy

MODELS, DATASETS = "config/models", "config/datasets.tsv"
HUB, TINY = "r1-qwen-1.5b", "tiny-qwen-s"


def keep(path: Path, *names: str) -> None:
    """Leave the first line of a table and the rows of these names, or the files of a folder."""
    if path.is_dir():
        for file in path.iterdir():
            if file.stem not in names:
                file.unlink()
        return
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.split("\t")[0] in names]
    path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


def study(model: str, schemes: tuple[str, ...] = ("none/full", "rtn/w3")) -> dict:
    """A model's study without corpora."""
    block = {"models": [model], "schemes": list(schemes)}
    suites = {"arithmetic": TINY_STUDY["suites"]["arithmetic"]}
    return {"studies": {"mine": {"suites": ["arithmetic"], "grid": [block]}}, "suites": suites, "corpora": {}}


@pytest.mark.parametrize("model", [HUB, TINY])
@pytest.mark.parametrize("datasets", [(), ("gsm8k",)])
def test_a_study_of_the_only_model_is_planned(copy: Copy, model: str, datasets: tuple[str, ...]):
    """Of one source alone, with and without any dataset, with no corpus and no other quantizer."""
    keep(copy.root / MODELS, model)
    keep(copy.root / DATASETS, *datasets)
    path = copy.root / "config/quantizers.yaml"
    quantizers = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({name: quantizers[name] for name in ("none", "rtn")}), encoding="utf-8")
    copy.write_config(study(model))
    done = copy.snakemake("--dry-run", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rule, other = ("models_of_hub", "models") if model == HUB else ("models", "models_of_hub")
    jobs = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert jobs[rule] == "1"
    assert other not in jobs


# what is empty: what is done to the study or its files, words that the refusal must hold
REFUSED = {
    "no models": ({}, MODELS, [f"unknown model {TINY!r}", "known: none"]),
    "no quantizers": ({}, "config/quantizers.yaml", ["config/quantizers.yaml", "'none' is a required property"]),
    "no suites": ({"suites": {}}, None, ["unknown suite 'arithmetic'", "known: none"]),
    "no studies": ({"studies": {}}, None, ["studies", "should be non-empty"]),
    "no schemes of a block": (study(TINY, ()), None, ["studies.mine.grid.0.schemes", "should be non-empty"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_not_be_empty_is_refused_in_words(copy: Copy, case: str):
    change, emptied, words = REFUSED[case]
    copy.write_config(study(TINY) | change)
    if emptied == MODELS:
        keep(copy.root / emptied)
    elif emptied:
        (copy.root / emptied).write_text("{}\n", encoding="utf-8")
    done = copy.snakemake("--dry-run")
    assert done.returncode == 1
    for word in words:
        assert word in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Ambiguous" not in done.stdout
