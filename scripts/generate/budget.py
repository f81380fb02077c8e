"""Budgets of thinking: an answer whose thought ends before its budget is spent is the one that it would be without.

vLLM counts tokens between the marker that opens the thought and the one that closes it, and writes the latter itself
when the budget is spent ("budget forcing": Muennighoff et al., "s1: Simple test-time scaling", arXiv 2501.19393).
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scripts.run.errors import UserError


@dataclass(frozen=True)
class Budget:
    """So many tokens of thinking.

    Attributes:
        tokens: that a thought may have.
        opened: token that opens the thought.
        closed: token that closes it.
    """

    tokens: int
    opened: int
    closed: int

    def is_kept(self, prompt: list[int], output: list[int]) -> bool:
        """Whether an answer, given in token ids, is the same with this budget as without.

        One that closes its thought with the budget's last token is, too, but cannot be told from one that was made to.
        """
        return thought_tokens(prompt, output, self.opened, self.closed) < self.tokens


def thought_tokens(prompt: list[int], output: list[int], opened: int, closed: int) -> int:
    """Tokens of the first thought that the output goes on with or begins; of one that is not closed up to the end."""
    both = [*prompt, *output]
    before = both[: len(prompt)]
    if opened in before and closed not in before[_last(before, opened) :]:
        start = _last(before, opened) + 1
    elif opened in output:
        start = len(prompt) + output.index(opened) + 1
    else:
        return 0
    thought = both[start:]
    return thought.index(closed) if closed in thought else len(thought)


def _last(ids: list[int], wanted: int) -> int:
    return len(ids) - 1 - ids[::-1].index(wanted)


def budget_of(settings: dict, tokenizer: PreTrainedTokenizerBase) -> Budget | None:
    """The budget of a suite, as a model counts it; None if the suite has none.

    Args:
        settings: `thinking_tokens` of the suite, if it has a budget, and `think`, the markers of the model.
        tokenizer: of the checkpoint.

    Raises:
        UserError: the model does not open and close its thought by one token each.
    """
    if "thinking_tokens" not in settings:
        return None
    known = tokenizer.get_vocab()
    for marker in settings["think"].split():
        if marker not in known:
            raise UserError(
                f"thinking_tokens: the tokenizer of {tokenizer.name_or_path} has no token {marker!r}, by which the "
                "thought would be counted: correct `think` in the model's file, or leave its budgets out"
            )
    return Budget(settings["thinking_tokens"], *(known[marker] for marker in settings["think"].split()))
