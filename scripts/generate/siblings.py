"""What other suites will ask a checkpoint, answered while its engine is up: a hint, never an input.

Snakemake writes down, as it starts, which suites every checkpoint of its studies is asked. Who starts an engine for one
of them answers what the others will ask, too, as far as their questions are there; their own jobs find it in the store.
"""

import json
from pathlib import Path
from typing import NamedTuple

from scripts.run.files import write_atomically

SUITES = Path("results/store/suites.json")


class Sibling(NamedTuple):
    """A suite: its name, settings, and the files of its questions."""

    suite: str
    settings: dict
    questions: list[Path]


def write_down(suites: dict[str, dict[str, dict]]) -> None:
    """Note the suites of every checkpoint, "model/quantizer/scheme" → suite → `settings` and `questions`."""
    SUITES.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(SUITES, lambda path: path.write_text(json.dumps(suites), encoding="utf-8"))


def siblings(checkpoint: str, suite: str) -> list[Sibling]:
    """The other suites of a checkpoint whose questions are there.

    None where nobody wrote any down, and none for a suite that no study has: what is calibrated on its answers waits.
    """
    try:
        noted = json.loads(SUITES.read_text(encoding="utf-8")).get(checkpoint, {})
    except (OSError, ValueError):
        return []
    if suite not in noted:
        return []
    found = [Sibling(name, each["settings"], list(map(Path, each["questions"]))) for name, each in noted.items()]
    return [other for other in found if other.suite != suite and all(path.is_file() for path in other.questions)]
