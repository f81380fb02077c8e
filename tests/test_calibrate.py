"""Calibration sequences hold what the model thought, not a sliver of it."""

import pytest

from scripts.calibrate import reasoning_ids, windows
from scripts.models.arithmetic import build_tokenizer
from scripts.questions._arithmetic import Problem, questions
from scripts.run.errors import UserError


def answers(count: int) -> list[dict]:
    """Rows as `generate` writes them, answered by the solution itself."""
    tokenizer = build_tokenizer()
    rows = []
    for row in questions("multiplication", count, seed=1, evaluation=False):
        prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        left, right = row["id"].split("*")
        output = Problem(int(left), "*", int(right)).solution
        rows.append(
            {
                "prompt": prompt,
                "prompt_tokens": len(tokenizer(prompt, add_special_tokens=False).input_ids),
                "output": output,
                "output_tokens": len(tokenizer(output, add_special_tokens=False).input_ids) + 1,
            }
        )
    return rows


def test_all_reasoning_is_in_the_corpus():
    tokenizer = build_tokenizer()
    rows = answers(8)
    ids = reasoning_ids(tokenizer, rows)
    # two line feeds between the answers, no final EOS
    assert len(ids) == sum(row["prompt_tokens"] + row["output_tokens"] for row in rows) + 2 * 7 - 8
    text = tokenizer.decode(ids)
    assert all(row["output"] in text for row in rows)
    assert ids.count(tokenizer.bos_token_id) == 8


def test_a_corpus_of_first_characters_is_refused():
    """The study's own code indexed a string as a list."""
    rows = [row | {"output": row["output"][0]} for row in answers(8)]
    with pytest.raises(UserError, match="not what the model wrote"):
        reasoning_ids(build_tokenizer(), rows)


def test_windows_lie_in_the_corpus_and_follow_the_seed():
    ids = list(range(1000))
    chosen = windows(ids, 20, 50, seed=1)
    assert all(window == list(range(window[0], window[0] + 50)) for window in chosen)
    assert chosen == windows(ids, 20, 50, seed=1)
    assert chosen != windows(ids, 20, 50, seed=2)
    assert windows(ids[:50], 1, 50, seed=0) == [ids[:50]]


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(UserError, match="49 tokens, fewer than one sequence of 50"):
        windows(list(range(49)), 1, 50, seed=0)
