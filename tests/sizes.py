"""The real sizes without the real weights: python -m tests.sizes [MODEL …]

One decoder layer of the widths of each model in the paper's grid, with random weights, goes on the CPU through one
scheme of every kind that the grid asks of the model, in its own row groups, and is served by vLLM, which reads every
written tensor by name and shape. Prints time and peak memory beside what scripts/run/resources.py would ask for.
Methods that are calibrated are tried up to the widths of the 14B model: beyond, a layer needs more than 24 GB here.
"""

import sys
import tempfile
from pathlib import Path

from scripts.run.read import read_models
from tests.bench import size
from tests.node import ALL, check, of_the_paper, one_of_each, random_model, show, verdict

LARGEST = 5120 * 13824  # widths of the 14B model
MODELS = {name: facts for name, facts in read_models().items() if of_the_paper(name)}


def main() -> None:
    failed = []
    logs = Path(tempfile.mkdtemp(prefix="check-"))
    for name in sys.argv[1:] or size(list(MODELS), ["r1-qwen-1.5b"]):
        if name not in MODELS:
            raise SystemExit(f"error: no model {name} in the paper's grid; known: {', '.join(MODELS)}")
        facts = MODELS[name]
        asked = size(of_the_paper(name), {"quarot/kv4"})
        if facts["hidden_size"] * facts["intermediate_size"] > LARGEST:
            asked = {scheme for scheme in asked if "corpus" not in ALL[scheme]}
        rows = check(logs / name, random_model(facts, 1), facts, one_of_each(asked, facts), "eager")
        show(f"one layer of the widths of {name}", rows)
        failed += [f"{scheme} of {name}" for (scheme, _), row in rows.items() if verdict(row) != "works"]
    print(f"what each process said is in {logs}")
    if failed:
        raise SystemExit(f"error: this does not work: {', '.join(failed)}")


if __name__ == "__main__":
    main()
