"""Let one checkpoint answer all questions of a suite, all seeds, in one vLLM engine start.

What the store holds is not generated again; what the engine finishes is stored at once.
"""

import itertools
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.generate.answers import Answer
from scripts.generate.packed import check_packed
from scripts.generate.prompts import Request, build_requests
from scripts.generate.siblings import Sibling, siblings
from scripts.generate.start import engine_identity, start_engine, tensor_parallel_size
from scripts.generate.store import Store, checkpoint_digest, digest_of
from scripts.questions._chosen import chosen, count_of
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.lease import lease, start_ticks
from scripts.run.progress import Answers
from scripts.run.stage import Input, Inputs, Output, Parameter, Settings, stage
from scripts.table import SAMPLE_COLUMNS, column, read_rows, write_table

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

SCHEMA = pa.schema(
    [
        *SAMPLE_COLUMNS,
        column("prompt", pa.string(), "rendered prompt, chat template included"),
        column("prompt_tokens", pa.int64(), "length of the prompt in tokens"),
        column("output", pa.string(), "generated text, thinking included, without the final EOS"),
        column("token_ids", pa.list_(pa.int32()), "the output in tokens as they were drawn, the final EOS included"),
        column("output_tokens", pa.int64(), "length of the output in tokens, the final EOS included"),
        column(
            "finish_reason",
            pa.string(),
            "stop (EOS), length (token limit reached: truncated) or repetition (stop_loops)",
        ),
        column(
            "cut",
            pa.bool_(),
            "a limit of the suite (thinking_tokens, think_again, stop_loops) changed it; null: there is none",
        ),
        column("sample", pa.string(), "address in the sample store"),
    ]
)


def held(request: Request, store: Store) -> str | None:
    """The address under which the store holds the sample of a request; None if it does not.

    What the limits do not change lies where it does without them.
    """
    row = store.samples.get(request.plain)
    if row is not None and (request.limits is None or request.limits.is_plain(request.prompt, row)):
        return request.plain
    return request.sample if request.sample in store.samples else None


def rounds(requests: list[Request]) -> list[list[Request]]:
    """The requests in the order in which they are drawn: without limits, then by their budgets, the largest first.

    What a larger budget does not cut is what a smaller one may cut, and need not be drawn for it.
    """

    def rank(request: Request) -> tuple[bool, float]:
        budget = request.limits and request.limits.thinking
        return request.limits is not None, -(budget or math.inf)

    # Who thinks again goes on from the first end of the thought, which is that of the sample without limits.
    first = [request.without_limits() for request in requests if request.limits and request.limits.again]
    return [list(group) for _, group in itertools.groupby(sorted([*first, *requests], key=rank), rank)]


def generate(llm: "LLM", requests: list[Request], store: Store, label: str) -> tuple[float, int]:
    """Put the outputs of all requests into the store, longest expected first so that none runs alone at the end.

    SIGTERM, with which Slurm announces the end of a job, flushes the store and ends the process with status 143.

    Returns:
        Seconds that it took, and tokens that were drawn.

    Raises:
        UserError: a process of the engine died; what had finished is stored.
    """
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    answers = {str(i): Answer(request, store.samples, tokenizer) for i, request in enumerate(requests)}
    for name in sorted(answers, key=lambda name: -requests[int(name)].expected_tokens):
        engine.add_request(name, *answers[name].asked())
    told_to_stop = []
    signal.signal(signal.SIGTERM, lambda number, _: told_to_stop.append(number))
    step = watched(engine.step)
    progress = Answers(
        label, {str(i): r.expected_tokens for i, r in enumerate(requests)}, lambda: tokens_so_far(engine)
    )
    progress.print()
    store.start_clock()
    try:
        while engine.has_unfinished_requests() and not told_to_stop:
            for finished in step():
                name, request = finished.request_id, requests[int(finished.request_id)]
                if (row := answers[name].take(finished.outputs[0])) is None:
                    engine.add_request(name, *answers[name].asked())
                    continue
                plain = request.limits is None or request.limits.is_plain(request.prompt, row)
                plain = plain and not answers[name].turns
                store.add(request.plain if plain else request.sample, row)
                progress.finish(name, answers[name].drawn)
            store.tick()
            progress.tick()
    except ChildProcessError:
        raise UserError(
            f"{label}: a process of the engine died (killed, or out of memory; the log says more); "
            f"{progress.done:,} of {progress.total:,} samples had finished and are stored: run again"
        ) from None
    finally:
        store.flush()
    progress.close()
    if told_to_stop:
        print(f"{label}: told to stop; what is finished is stored, and the next run goes on from there", flush=True)
        raise SystemExit(143)
    return progress.seconds, progress.tokens


def tokens_so_far(engine: "LLMEngine") -> dict[str, int]:
    """Tokens that each unfinished request has, by the name under which it was added."""
    states = engine.output_processor.request_states.values()
    return {state.external_req_id: state.detokenizer.num_output_tokens() for state in states}


def watched(step: Callable[[], list]) -> Callable[[], list]:
    """`step`, raising ChildProcessError when a process of the engine has died, for which vLLM would wait for ever."""
    processes = [process.pid for process in psutil.Process().children()]
    inside = []

    def check(*_: object) -> None:
        if inside and None in map(start_ticks, processes):
            raise ChildProcessError

    def step_or_raise() -> list:
        inside.append(True)
        try:
            check()
            return step()
        finally:
            inside.clear()

    signal.signal(signal.SIGCHLD, check)
    return step_or_raise


def ahead(
    others: list[Sibling], tokenizer: PreTrainedTokenizerBase, identity: dict, settings: dict, label: str
) -> tuple[list[Request], dict]:
    """What siblings ask, and with which settings an engine answers them as well as the suite itself."""
    requests, most = [], dict(settings)
    for sibling in others:
        try:
            requests += asked_of(sibling.questions, tokenizer, sibling.settings, identity, {})
        except UserError as error:
            print(f"{label}: {sibling.suite} is not answered ahead: {error}", flush=True)
            continue
        most["max_model_len"] = max(most["max_model_len"], sibling.settings["max_model_len"])
        most |= {key: value for key, value in sibling.settings.items() if key == "thinking_tokens"}
    return requests, most


def draw(checkpoint: Path, settings: dict, requests: list[Request], store: Store, label: str) -> None:
    """Generate what the store lacks of the requests, in one engine start."""
    llm = start_engine(checkpoint, settings)
    record.add_facts(startup_seconds=round(time.time() - psutil.Process().create_time(), 3))
    seconds, tokens = 0.0, 0
    for part in rounds(requests):
        if missing := {request.sample: request for request in part if held(request, store) is None}:
            took, drawn = generate(llm, list(missing.values()), store, label)
            seconds, tokens = seconds + took, tokens + drawn
    record.add_facts(generation_seconds=round(seconds, 3), generated_tokens=tokens)


def asked_of(
    questions: list[Path], tokenizer: PreTrainedTokenizerBase, settings: dict, identity: dict, known: dict
) -> list[Request]:
    """The requests of a suite, from the files of its questions; all else as in `build_requests`."""
    rows = [row for path in questions for row in some(read_rows(path), count_of(settings, path.stem))]
    return build_requests(rows, tokenizer, settings, identity, known)


def conditions(identity: dict, requests: list[Request], store: Store) -> dict[str, str]:
    """What the samples were drawn by, in words: cells are comparable where it is the same."""
    versions = (f"{name} {version}" for name, version in sorted(identity["engine"].items()))
    invariant = ", batch-invariant" if identity["batch_invariant"] == "1" else ""
    return {
        "engine": f"{', '.join(versions)}{invariant}",
        "device": identity["device"],
        "dtype": identity["dtype"],
        "tensor_parallel_size": " and ".join(map(str, sorted(store.ranks))),
        "prompts": digest_of([request.prompt for request in requests])[:12],
    }


def addresses(requests: list[Request]) -> set[str]:
    """Where their samples may lie."""
    return {address for request in requests for address in (request.sample, request.plain)}


@stage
def main(
    questions: Inputs,
    checkpoint: Input,
    output: Output,
    model: Parameter,
    quantizer: Parameter,
    scheme: Parameter,
    suite: Parameter,
    settings: Settings,
) -> None:
    check_packed(checkpoint, settings)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    digest, cell = checkpoint_digest(checkpoint), f"{model}/{quantizer}/{scheme}"
    identity = {"checkpoint": digest, **engine_identity(checkpoint, settings)}  # the same for all suites of a model
    requests = asked_of(questions, tokenizer, settings, identity, known_lengths(output, quantizer, scheme))
    label, count = f"generate {cell}/{suite}", f"{len(requests):,} samples"
    with lease(f"{digest}.{suite}", label):
        run = record.run() | {"tensor_parallel_size": tensor_parallel_size()}
        store = Store(digest, addresses(requests), run)
        missing = sum(held(request, store) is None for request in requests)
        record.add_facts(samples=len(requests), generated=missing)
        if missing:
            others = siblings(cell, suite)
            names = f", and what {', '.join(other.suite for other in others)} will ask" if others else ""
            print(f"{label}: {missing:,} of {count} to generate{names}; starting the engine", flush=True)
            more, most = ahead(others, tokenizer, identity, settings, label)
            if more:
                store = Store(digest, addresses([*requests, *more]), run)
            draw(checkpoint, most, [*requests, *more], store, label)
        else:
            print(f"{label}: all {count} were in the store", flush=True)
    record.add_facts(conditions=conditions(identity, requests, store))
    keys = {"model": model, "quantizer": quantizer, "scheme": scheme, "suite": suite}
    rows = []
    for request in requests:
        sample = held(request, store)
        rows.append(
            keys
            | {"benchmark": request.benchmark, "id": request.id, "seed": request.seed, "sample": sample}
            | {"prompt": tokenizer.decode(request.prompt), "prompt_tokens": len(request.prompt)}
            | {"cut": None if request.limits is None else sample != request.plain}
            | store.samples[sample]
        )
    if any(request.limits for request in requests):
        cut = sum(row["cut"] for row in rows)
        record.add_facts(cut=cut)
        print(f"{label}: of {count} the suite's limits change {cut:,}; the others are those without", flush=True)
    tokens = sum(row["output_tokens"] for row in rows)
    record.add_facts(output_tokens=tokens, tokens_per_second=store.tokens_per_second)
    write_table(output, rows, SCHEMA, think=settings["think"])


def some(questions: list[dict], count: int | None) -> list[dict]:
    """So many of a benchmark's questions, in their order; None: all."""
    names = chosen((row["id"] for row in questions), count)
    return [row for row in questions if row["id"] in names]


def known_lengths(output: Path, quantizer: str, scheme: str) -> dict[tuple[str, str, int], int]:
    """Lengths of the baseline's answers, where they exist: a hint for the order, never an input."""
    baseline = output.parents[2] / "none" / "full" / output.name
    if [quantizer, scheme] == ["none", "full"] or not baseline.exists():
        return {}
    columns = ["benchmark", "id", "seed", "output_tokens"]
    return {
        (row["benchmark"], row["id"], row["seed"]): row["output_tokens"]
        for row in pq.read_table(baseline, columns=columns).to_pylist()
    }


if __name__ == "__main__":
    main()
