"""What a suite may end early: thoughts by a budget, answers by their loops. What neither cuts is the sample without.

Of thoughts vLLM counts tokens between the marker that opens it and the one that closes it, and writes the latter itself
when the budget is spent ("budget forcing": Muennighoff et al., "s1: Simple test-time scaling", arXiv 2501.19393).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scripts.generate.loops import first_loop
from scripts.run.errors import UserError

LOOP = "repetition"  # vLLM's word for the end of an answer that was ended for its loops


@dataclass(frozen=True)
class Limits:
    """What a suite may end early.

    Attributes:
        thinking: tokens that a thought may have; None: as many as it takes.
        opened: token that opens the thought.
        closed: token that closes it.
        loops: after so many repetitions in a row an answer is ended; None: it is not.
    """

    thinking: int | None = None
    opened: int = -1
    closed: int = -1
    loops: int | None = None

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
        # The last token ended the answer before vLLM looked for loops.
        return self.loops is None or (row["finish_reason"] != LOOP and first_loop(ids[:-1], [self.loops]) == [None])


def thought_tokens(prompt: list[int], output: Sequence[int], opened: int, closed: int) -> int:
    """Tokens of the first thought that the output goes on with or begins; of one that is not closed up to the end."""
    if opened in prompt and closed not in prompt[_last(prompt, opened) :]:
        start = _last(prompt, opened) + 1 - len(prompt)  # tokens of the prompt that are part of the thought, negative
    elif opened in output:
        start = output.index(opened) + 1
    else:
        return 0
    thought = output[max(start, 0) :]
    return max(-start, 0) + (thought.index(closed) if closed in thought else len(thought))


def _last(ids: list[int], wanted: int) -> int:
    return len(ids) - 1 - ids[::-1].index(wanted)


def limits_of(settings: dict, tokenizer: PreTrainedTokenizerBase) -> Limits | None:
    """The limits of a suite, as a model counts them; None if the suite has none.

    Args:
        settings: `thinking_tokens` and `stop_loops` of the suite, where it has them, and `think`, the model's markers.
        tokenizer: of the checkpoint.

    Raises:
        UserError: the model does not open and close its thought by one token each.
    """
    loops = settings.get("stop_loops")
    if "thinking_tokens" not in settings:
        return Limits(loops=loops) if loops else None
    known = tokenizer.get_vocab()
    for marker in settings["think"].split():
        if marker not in known:
            raise UserError(
                f"thinking_tokens: the tokenizer of {tokenizer.name_or_path} has no token {marker!r}, by which the "
                "thought would be counted: correct `think` in the model's file, or leave its budgets out"
            )
    opened, closed = (known[marker] for marker in settings["think"].split())
    return Limits(settings["thinking_tokens"], opened, closed, loops)
