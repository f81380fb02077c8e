"""Answers that repeat themselves: where vLLM's `repetition_detection` would end one, from its token ids."""

import numpy as np

LONGEST = 128  # tokens of what is repeated: vLLM compares so many at each token


def first_loop(ids: list[int] | np.ndarray, counts: list[int], longest: int = LONGEST) -> list[int | None]:
    """After how many tokens the same 1 to `longest` tokens have come so many times in a row, as vLLM looks for it.

    Args:
        ids: of an output.
        counts: of repetitions, at least 2.
        longest: tokens of what is repeated.

    Returns:
        For each of the counts the length of the shortest such beginning of the output; None: there is none.
    """
    ids = np.asarray(ids)
    found = dict.fromkeys(counts, len(ids) + 1)
    for period in range(1, min(longest, len(ids) // min(counts)) + 1):
        same = ids[period:] == ids[:-period]
        if same.sum() < period * (min(counts) - 1):
            continue
        index = np.arange(len(same))
        run = index - np.maximum.accumulate(np.where(same, -1, index))  # equal neighbours up to here
        for count in counts:
            reached = run >= period * (count - 1)
            if reached.any():
                found[count] = min(found[count], period + int(reached.argmax()) + 1)
    return [found[count] if found[count] <= len(ids) else None for count in counts]
