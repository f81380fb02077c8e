"""What works on this machine: python -m tests.node [--device cpu]

The first thing to run on a GPU node: at most ten minutes, no download. Of a tiny reasoner and of a random model of a
real width, one scheme of every kind in config/quantizers.yaml is quantized, and served by vLLM as the pipeline serves
it: compiled, and on a GPU captured in CUDA graphs; where there are several GPUs, on two of them as well. The
log-probabilities of given tokens stand beside those of the quantizer's own model in memory, or, where vLLM rounds
itself, of full precision. Prints a table, and ends with status 1 if a kind of scheme that the paper's grid asks for
does not work.

With `--device cpu` the same on the CPU, compiled by Inductor.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from scripts.fakequant.settings import is_packed
from scripts.run.errors import UserError
from scripts.run.geometry import check_geometry
from scripts.run.machine import cpu_model, gpu, versions
from scripts.run.read import read_models
from scripts.run.resources import PROCESS_MB, quantize_gb, quantize_mb
from tests import memory, serve
from tests.bench import size
from tests.conftest import ROOT
from tests.test_agreement import ALL, CALIBRATION, ENGINE, EVALUATION, SCHEMES, quantize, reference, save
from tests.tiny import trained

BASELINE = "model"
TINY = "tiny-qwen-s"
WIDE, WIDE_ON_CPU = ("r1-qwen-7b", 2), ("r1-qwen-1.5b", 1)  # a model's widths, and layers of them
SAME = 1e-2  # log-probabilities of full precision, by two programs
ROUNDED = 0.3  # what vLLM may round itself: noise would be nats away
ANSWERS, TOKENS = size((64, 64), (4, 4))  # for the speed: answers at once, and tokens of each
LIMIT_SECONDS = 600  # of one process
MARK = "node: "  # begins a line that a part prints for this program
SMALLEST = ["mxfp4/w4a4kv4", "quarot/w4a4kv4"]
NUMBERS = ("bits", "activation_bits", "kv_bits")


def kind(scheme: str) -> tuple:
    """What makes a quantizer or the plugin do something else: not how many bits, nor groups, nor calibration texts."""
    if scheme in ENGINE:
        return (scheme,)
    settings = ALL[scheme]
    flags = [(key, settings[key]) for key in ("packed", "before_bias") if key in settings]
    return scheme.split("/", maxsplit=1)[0], *(key for key in NUMBERS if key in settings), *flags


def one_of_each(names: Iterable[str], facts: dict[str, Any]) -> list[str]:
    """Of every kind of scheme the one with the fewest bits, of those that fit the model."""
    found: dict[tuple, str] = {}
    known = ALL | ENGINE
    for scheme in sorted(names, key=lambda name: [known[name].get(key, 0) for key in NUMBERS], reverse=True):
        if scheme != "none/full":
            with contextlib.suppress(UserError):
                check_geometry(scheme, known[scheme], facts)
                found[kind(scheme)] = scheme
    return sorted(found.values())


def of_the_paper(model: str | None = None) -> set[str]:
    """Schemes of the paper's grid, or of one model in it."""
    grid = yaml.safe_load((ROOT / "config/paper.yaml").read_text(encoding="utf-8"))["studies"]["paper"]["grid"]
    return {scheme for block in grid for scheme in block["schemes"] if model in (None, *block["models"])}


def random_model(facts: dict[str, Any], layers: int) -> PreTrainedModel:
    """Layers of a model's widths in bfloat16, with the tiny reasoners' alphabet."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128, hidden_size=facts["hidden_size"], intermediate_size=facts["intermediate_size"],
        num_hidden_layers=layers, num_attention_heads=facts["heads"], num_key_value_heads=facts["kv_heads"],
        head_dim=facts["head_dim"], tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def make(folder: Path, scheme: str) -> dict[str, Any]:
    """Quantize; peak memory beside what scripts/run/resources.py would ask for, in GB: a GPU's, or else the host's."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    settings = (ALL | ENGINE)[scheme]
    corpus = {"sequences": len(CALIBRATION), "length": max(map(len, CALIBRATION))} if "corpus" in settings else None
    peak: list[int] = []
    started = time.monotonic()
    with memory.watched(peak):
        quantize(folder, scheme)
    found: dict[str, Any] = {"seconds": time.monotonic() - started, "peak": peak[0] / 1e9}
    needs = facts, scheme.split("/", maxsplit=1)[0], settings, corpus
    found["asked"] = (quantize_mb(*needs) - PROCESS_MB) / 1e3
    if torch.cuda.is_available() and corpus:
        found |= {"peak": torch.cuda.max_memory_allocated() / 1e9, "asked": sum(quantize_gb(*needs))}
        torch.cuda.reset_peak_memory_stats()
    return found


def ask(folder: Path, name: str, mode: str, ranks: int) -> dict[str, Any]:
    """Serve: log-probabilities of the evaluation's tokens, and tokens per second of answers that run at once."""
    from vllm import SamplingParams

    from scripts.generate.packed import check_packed

    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    settings = {"dtype": facts["dtype"], "max_model_len": max(map(len, EVALUATION)) + TOKENS, "max_num_seqs": ANSWERS}
    check_packed(folder / name, settings)
    llm = serve.start(folder / name, mode, ranks, settings)
    try:
        found: dict[str, Any] = {"logprobs": serve.logprobs(llm, EVALUATION)}
        prompts = [{"prompt_token_ids": EVALUATION[i % len(EVALUATION)]} for i in range(ANSWERS)]
        sampling = SamplingParams(max_tokens=TOKENS, ignore_eos=True, seed=0)
        for _ in range(2):  # the first is slow in ways of its own
            started = time.monotonic()
            llm.generate(prompts, sampling, use_tqdm=False)
        found["speed"] = ANSWERS * TOKENS / (time.monotonic() - started)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
    serve.stop(mode)
    return found


def run_part(folder: Path, job: str, *names: str) -> None:
    """In a process of its own: a line for each name, also where it fails."""
    if job == "make":
        work: Callable[[str], dict[str, Any]] = lambda name: make(folder, name)  # noqa: E731
    else:
        mode, ranks, *names = names
        serve.prepare(mode)
        work = lambda name: ask(folder, name, mode, int(ranks))  # noqa: E731
    for name in names:
        try:
            found = work(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is what is asked for
            print(f"{folder.name}: {name}", file=sys.stderr)
            sys.excepthook(type(error), error, error.__traceback__)
            refused = isinstance(error, UserError)
            first = str(error).strip().splitlines()[:1] or [type(error).__name__]
            found = {"refused" if refused else "failed": first[0]}
        print(MARK + json.dumps({"name": name} | found), flush=True)


def run(folder: Path, arguments: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """Results of a part by name; a process that dies, or takes too long, costs the name that it was at."""
    found: dict[str, dict[str, Any]] = {}
    log = folder.with_name(f"{folder.name}-{'-'.join(arguments)}.log")
    while left := [name for name in names if name not in found]:
        command = [sys.executable, "-m", "tests.node", "--folder", str(folder), "--part", *arguments, *left]
        with log.open("a", encoding="utf-8") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stream, encoding="utf-8")
        timer = threading.Timer(LIMIT_SECONDS, process.kill)
        timer.start()
        for line in process.stdout:
            if line.startswith(MARK):
                one = json.loads(line.removeprefix(MARK))
                found[one.pop("name")] = one
        timer.cancel()
        if process.wait() and left[-1] not in found:
            lost = next(name for name in left if name not in found)
            found[lost] = {"failed": f"its process ended with status {process.returncode}"}
    return found


def verdict(row: dict[str, Any]) -> str:
    """What is served must be nearer to what the quantizer meant than half of the way from there to full precision.

    In bfloat16 it may be as far away as the quantizer's model in bfloat16 is, and half as much: rounding to few bits
    multiplies what the dtype rounds before it. What vLLM rounds itself must be near to full precision, and not be it.
    """
    for word in ("refused", "failed"):
        if word in row:
            return f"{word}: {row[word]}"
    if row.get("engine"):
        return "works" if 0 < row["differs"] <= ROUNDED else "differs"
    return (
        "works"
        if row["differs"] <= max(SAME if not row["effect"] else row["effect"] / 2, 1.5 * row["noise"])
        else "differs"
    )


def check(
    folder: Path, model: PreTrainedModel, facts: dict[str, Any], names: list[str], mode: str, ranks: int = 1
) -> dict[tuple[str, int], dict[str, Any]]:
    """What became of each scheme, by its name and the number of ranks. Logs stay beside the folder, which goes."""
    facts = facts | {"parameters": model.num_parameters(), "layers": model.config.num_hidden_layers}
    folder.mkdir()
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    save(folder, model)
    rows = {(name, 1): row for name, row in run(folder, ["make"], names).items()}
    whole = [BASELINE, *(name for name in names if "seconds" in rows[name, 1])]

    def meant(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {
            name: reference(folder / name, rounded=not is_packed(folder / name) and name not in ENGINE, dtype=dtype)
            for name in whole
        }

    expected, as_exact = meant(torch.float32), meant(getattr(torch, facts["dtype"]))
    for count in range(1, ranks + 1):
        for name, row in run(folder, ["ask", mode, str(count)], whole).items():
            if "logprobs" in row:
                found = torch.tensor(row.pop("logprobs"))
                row["differs"] = (found - expected[name]).abs().mean().item()
                row["noise"] = (as_exact[name] - expected[name]).abs().mean().item()
                row["effect"] = (expected[name] - expected[BASELINE]).abs().mean().item()
                row["engine"] = name in ENGINE
            rows[name, count] = rows.get((name, count), {}) | row
    shutil.rmtree(folder)
    return rows


def show(title: str, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("scheme")
    for name in ("ranks", "s", "GB", "asked for", "differs by", "noise", "effect", "speed"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for (name, count), row in sorted(rows.items()):
        full = rows.get((BASELINE, count), {}).get("speed")
        cells = [
            f"{row['seconds']:.1f}" if "seconds" in row else "",
            f"{row['peak']:.2f}" if "peak" in row else "",
            f"{row['asked']:.2f}" if "asked" in row else "",
            f"{row['differs']:.1e}" if "differs" in row else "",
            f"{row['noise']:.1e}" if row.get("noise") else "",
            f"{row['effect']:.1e}" if row.get("effect") else "",
            f"{row['speed'] / full:.2f}" if full and "speed" in row else "",
        ]
        table.add_row("none/full" if name == BASELINE else name, str(count), *cells, verdict(row))
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.folder, *arguments.part)
        return
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise SystemExit("error: torch sees no GPU here (see `nvidia-smi -L`); `--device cpu` checks the CPU")
    gpus = torch.cuda.device_count() if arguments.device == "cuda" else 0
    print(f"{versions() | gpu()}" if gpus else f"{cpu_model()}, {versions()}")
    started, facts, failed = time.monotonic(), read_models(), []
    wide, layers = WIDE if gpus else WIDE_ON_CPU
    paper = {kind(scheme) for scheme in of_the_paper()}
    models = {TINY: lambda: trained(TINY), wide: lambda: random_model(facts[wide], layers)}
    logs = Path(tempfile.mkdtemp(prefix="check-"))
    for name in size(list(models), [TINY]):
        names = size(one_of_each([*SCHEMES, *ENGINE], facts[name]), SMALLEST)
        rows = check(logs / name, models[name](), facts[name], names, "compiled", min(gpus, 2) or 1)
        show(name if name == TINY else f"random, {layers} layers of the widths of {name}", rows)
        bad = [scheme for (scheme, _), row in rows.items() if verdict(row) != "works"]
        failed += [f"{scheme} of {name}" for scheme in bad if scheme == BASELINE or kind(scheme) in paper]
    print(f"{time.monotonic() - started:.0f} s; what each process said is in {logs}")
    if failed:
        raise SystemExit(f"error: this does not work, and the paper's grid asks for its kind: {', '.join(failed)}")


if __name__ == "__main__":
    main()
