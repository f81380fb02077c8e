"""What the engine is asked: prompts as token ids, rendered and tokenized once, with sampling, seed and address."""

import hashlib
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from scripts.generate.limits import Limits, limits_of
from scripts.generate.loops import LONGEST
from scripts.generate.store import digest_of
from scripts.run.errors import UserError
from scripts.template import Conversation, render

OF_LIMITS = ("thinking_token_budget", "repetition_detection", "think_again")  # keys of `sampling` that limits add


@dataclass(frozen=True)
class Request:
    benchmark: str
    id: str
    seed: int
    prompt: list[int]
    expected_tokens: int
    sampling: dict  # of vLLM's SamplingParams, but for `think_again`
    sample: str  # address in the store
    plain: str  # the same without what the suite may end early or late
    limits: Limits | None = None  # what it may

    def without_limits(self) -> "Request":
        sampling = {key: value for key, value in self.sampling.items() if key not in OF_LIMITS}
        return replace(self, sampling=sampling, sample=self.plain, limits=None)


def build_requests(
    questions: list[dict],
    tokenizer: PreTrainedTokenizerBase,
    settings: dict,
    identity: dict,
    known: dict[tuple[str, str, int], int],
) -> list[Request]:
    """One request per question and seed, in the order of both.

    Args:
        questions: rows of question files.
        tokenizer: of the checkpoint.
        settings: of the suite and the model.
        identity: what beside prompt and sampling determines a sample.
        known: answer lengths by benchmark, question and seed, where known.

    Raises:
        UserError: a prompt leaves no room for an answer, or has two BOS; the chat template fails; the model has no
            token for any of the words that the suite discourages.
    """
    requests, bias, limits = [], {}, limits_of(settings, tokenizer)
    if "discourage" in settings:
        bias = {
            "logit_bias": dict.fromkeys(
                tokens_of(tokenizer, settings["discourage"]), -settings["discourage"]["penalty"]
            )
        }
    prompts = prompt_ids(tokenizer, [row["messages"] for row in questions], settings)
    for row, ids in zip(questions, prompts, strict=True):
        if len(ids) >= settings["max_model_len"]:
            raise UserError(
                f"{row['benchmark']}: question {row['id']} has {len(ids)} prompt tokens; "
                f"raise max_model_len ({settings['max_model_len']}) of its suite"
            )
        for seed in settings["seeds"]:
            sampling = {
                "temperature": settings["temperature"],
                "top_p": settings["top_p"],
                "top_k": settings["top_k"],
                "max_tokens": settings["max_model_len"] - len(ids),
                "seed": request_seed(seed, row["id"], paper_seeds=settings["paper_seeds"]),
                "skip_special_tokens": True,
            }
            sampling |= bias | ({"min_p": settings["min_p"]} if settings["min_p"] else {})
            expected = known.get((row["benchmark"], row["id"], seed), row["expected_tokens"])
            plain = digest_of({"prompt": ids, "sampling": sampling, **identity})
            if "thinking_tokens" in settings:
                sampling["thinking_token_budget"] = settings["thinking_tokens"]
            if "stop_loops" in settings:
                sampling["repetition_detection"] = {"max_pattern_size": LONGEST, "min_count": settings["stop_loops"]}
            if limits and limits.again:
                sampling["think_again"] = {"times": limits.again, "token_ids": limits.wait}
            sample = digest_of({"prompt": ids, "sampling": sampling, **identity})
            requests.append(Request(row["benchmark"], row["id"], seed, ids, expected, sampling, sample, plain, limits))
    return requests


def tokens_of(tokenizer: PreTrainedTokenizerBase, discouraged: dict) -> list[int]:
    """Tokens that are one of the words, with or without a blank before it, whatever its capitals.

    Raises:
        UserError: there is none.
    """
    words = set(discouraged["words"])
    found = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip().lower() in words]
    if not found:
        raise UserError(
            f"discourage: no token of {tokenizer.name_or_path} is a word of config/discourage/"
            f"{discouraged['name']}.yaml: add the model's own, or leave the suite out"
        )
    return found


def prompt_ids(tokenizer: PreTrainedTokenizerBase, conversations: list[Conversation], asked: dict) -> list[list[int]]:
    """Token ids of each conversation up to where the model begins to think.

    The template writes the BOS itself, so tokenizing must not add another.

    Args:
        asked: `system` and `template` of the model.

    Raises:
        UserError: the ids begin with two BOS; the template fails.
    """
    bos, prompts = tokenizer.bos_token_id, []
    for text in render(tokenizer, conversations, asked):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                f"{tokenizer.name_or_path}: the chat template renders a doubled BOS ({tokenizer.bos_token}); "
                "remove one from its chat_template"
            )
        prompts.append(ids)
    return prompts


def request_seed(seed: int, question_id: str, *, paper_seeds: bool) -> int:
    """Seed of one request: a hash of the run's seed and the question, equal across checkpoints.

    With `paper_seeds` the run's seed itself, as in the study, where all questions share one noise stream.
    """
    if paper_seeds:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{question_id}".encode()).digest()[:8], "big") >> 1
