"""What a suite may end early or late: thoughts by a budget or by "Wait", answers by their loops.

What none of them changes is the sample without. Of thoughts vLLM counts tokens between the marker that opens it and the
one that closes it, and writes the latter itself when the budget is spent. To think again, the first markers that close
a thought are replaced by "Wait" ("budget forcing" both: Muennighoff et al., "s1: Simple test-time scaling", arXiv
2501.19393).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scripts.generate.loops import first_loop
from scripts.run.errors import UserError

WAIT = "Wait"
LOOP = "repetition"  # vLLM's word for the end of an answer that was ended for its loops


@dataclass(frozen=True)
class Limits:
    """What a suite may end early or late.

    Attributes:
        thinking: tokens that a thought may have; None: as many as it takes.
        opened: token that opens the thought.
        closed: token that closes it.
        loops: after so many repetitions in a row an answer is ended; None: it is not.
        again: so many ends of the thought are replaced by `wait`.
        wait: tokens of "Wait".
        length: of prompt and output together, in tokens, at most.
    """

    thinking: int | None = None
    opened: int = -1
    closed: int = -1
    loops: int | None = None
    again: int = 0
    wait: tuple[int, ...] = ()
    length: int = 0

    def is_plain(self, prompt: list[int], row: dict) -> bool:
        """Whether a sample is the same with these limits as without.

        One that closes its thought with the budget's last token is, too, but cannot be told from one that was made to.

        Args:
            prompt: token ids.
            row: of the store.
        """
        ids = row["token_ids"]
        if self.thinking is not None and thought_tokens(prompt, ids, self.opened, self.closed) >= self.thinking:
            return False
        if self.again and self.turn(prompt, ids) is not None:
            return False
        # The last token ended the answer before vLLM looked for loops.
        return self.loops is None or (row["finish_reason"] != LOOP and first_loop(ids[:-1], [self.loops]) == [None])

    def turn(self, prompt: list[int], output: Sequence[int]) -> int | None:
        """Where in the output a thought ends that can go on; None: it is not closed, or no room is left for more."""
        found = first_thought(prompt, output, self.opened, self.closed)
        if found is None or found[1] is None or len(prompt) + found[1] + len(self.wait) >= self.length:
            return None
        return found[1]


def thought_tokens(prompt: list[int], output: Sequence[int], opened: int, closed: int) -> int:
    """Tokens of the first thought that the output goes on with or begins; of one that is not closed up to the end."""
    if (found := first_thought(prompt, output, opened, closed)) is None:
        return 0
    start, end = found
    return (len(output) if end is None else end) - start


def first_thought(prompt: list[int], output: Sequence[int], opened: int, closed: int) -> tuple[int, int | None] | None:
    """Where the first thought that the output goes on with or begins starts in it, and where it is closed.

    The start is negative where the prompt holds some of the thought, the end None where it is not closed; None as a
    whole if there is no thought.
    """
    if opened in prompt and closed not in prompt[_last(prompt, opened) :]:
        start = _last(prompt, opened) + 1 - len(prompt)  # tokens of the prompt that are part of the thought, negative
    elif opened in output:
        start = output.index(opened) + 1
    else:
        return None
    thought = output[max(start, 0) :]
    return start, (max(start, 0) + thought.index(closed) if closed in thought else None)


def _last(ids: list[int], wanted: int) -> int:
    return len(ids) - 1 - ids[::-1].index(wanted)


def limits_of(settings: dict, tokenizer: PreTrainedTokenizerBase) -> Limits | None:
    """The limits of a suite, as a model counts them; None if the suite has none.

    Args:
        settings: `thinking_tokens`, `think_again` and `stop_loops` of the suite, where it has them, `max_model_len`,
            and `think`, the model's markers.
        tokenizer: of the checkpoint.

    Raises:
        UserError: the model does not open and close its thought by one token each, or cannot write "Wait".
    """
    loops, asked = settings.get("stop_loops"), settings.keys() & {"thinking_tokens", "think_again"}
    if not asked:
        return Limits(loops=loops) if loops else None
    known, key = tokenizer.get_vocab(), " and ".join(sorted(asked))
    for marker in settings["think"].split():
        if marker not in known:
            raise UserError(
                f"{key}: the tokenizer of {tokenizer.name_or_path} has no token {marker!r}, by which the "
                "thought would be counted: correct `think` in the model's file, or leave its budgets out"
            )
    opened, closed = (known[marker] for marker in settings["think"].split())
    if not (again := settings.get("think_again", 0)):
        return Limits(settings["thinking_tokens"], opened, closed, loops)
    wait = tokenizer(WAIT, add_special_tokens=False).input_ids
    if tokenizer.decode(wait) != WAIT:
        raise UserError(f"think_again: the tokenizer of {tokenizer.name_or_path} cannot write {WAIT!r}: leave it out")
    return Limits(None, opened, closed, None, again, tuple(wait), settings["max_model_len"])
