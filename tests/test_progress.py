"""Progress lines say how much is left while long answers run."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run import progress
from scripts.run.progress import Answers
from tests.conftest import EAGER, Copy

SLOTS = 32  # answers that run at once; each gets a token a second


def left(expected: dict[str, int], lengths: dict[str, int], when: list[float]) -> list[tuple[float, float]]:
    """Simulated seconds that are left at these shares of the whole time, and as estimated."""
    waiting = sorted(expected, key=expected.get, reverse=True)
    running: dict[str, int] = {}
    history = []
    answers = Answers("x", expected, dict)
    while waiting or running:
        while waiting and len(running) < SLOTS:
            running[waiting.pop(0)] = 0
        for name in list(running):
            running[name] += 1
            if running[name] == lengths[name]:
                answers.finish(name, running.pop(name))
        history.append(answers.left(running) / SLOTS)
    total = len(history)
    return [(total - int(share * total), history[int(share * total)]) for share in when]


@pytest.mark.parametrize("longer", [0.7, 1.0, 1.5])
def test_the_time_left_is_known_long_before_most_have_finished(longer: float):
    """Longest first, lengths spread about what is expected, all longer or shorter than that."""
    generator = random.Random(0)
    expected = {str(n): generator.randint(50, 3000) for n in range(300)}
    lengths = {name: max(1, int(longer * n * generator.lognormvariate(0, 0.3))) for name, n in expected.items()}
    for truth, estimate in left(expected, lengths, [0.2, 0.5, 0.8]):
        assert truth / 2 < estimate < truth * 2


def test_a_line_counts_tokens_before_anything_has_finished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    answers = Answers("label", {"a": 900, "b": 100}, lambda: {"a": 200, "b": 0})
    clock[0] += 9
    answers.tick()
    assert capsys.readouterr().out == ""
    clock[0] += 1
    answers.tick()
    assert capsys.readouterr().out == "label: 0 of 2 samples, 200 tokens, 20 tokens/s, about 40 s left\n"
    answers.finish("a", 450)  # half as long as expected
    answers.running = lambda: {"b": 0}
    clock[0] += 10
    answers.tick()
    assert capsys.readouterr().out == "label: 1 of 2 samples, 450 tokens, 25 tokens/s, about 2 s left\n"


def test_tokens_of_a_real_engine_are_counted_as_they_come(study: Path):
    output = Path("results/generate/tiny-qwen-s/none/full/arithmetic.parquet")
    command = json.loads(output.with_suffix(".record.json").read_text(encoding="utf-8"))["command"]
    shutil.rmtree("results/store/samples")
    output.unlink()
    done = subprocess.run(
        [sys.executable, "-c", EAGER, *command[1:]],
        check=True, capture_output=True, text=True, env=os.environ | {"PATH": Copy.path},
    )  # fmt: skip
    lines = re.findall(r": (\d+) of (\d+) samples, ([\d,]+) tokens", done.stdout)
    first = [int(tokens.replace(",", "")) for finished, _, tokens in lines if finished == "0"]
    assert len(first) > 5
    assert 0 < first[0] < first[-1]
    assert output.exists()
