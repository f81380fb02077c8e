"""Prompts as token ids: rendered and tokenized once, by the checkpoint's own tokenizer and chat template."""

import hashlib

from transformers import PreTrainedTokenizerBase

from scripts.run.errors import UserError


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the model begins to think.

    The template writes the BOS itself, so tokenizing must not add another.

    Raises:
        UserError: the ids begin with two BOS.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise UserError(
            f"{tokenizer.name_or_path}: the chat template renders a doubled BOS ({tokenizer.bos_token}); "
            "remove one from its chat_template"
        )
    return ids


def request_seed(seed: int, question_id: str, *, paper_seeds: bool) -> int:
    """Seed of one request: a hash of the run's seed and the question, equal across checkpoints.

    With `paper_seeds` the run's seed itself, as in the study, where all questions share one noise stream.
    """
    if paper_seeds:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{question_id}".encode()).digest()[:8], "big") >> 1
