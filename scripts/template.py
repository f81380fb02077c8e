"""Chat templates: programs of whoever made a model, looked at when it comes, and run in a process that can be ended."""

import logging
import re
import resource
import signal
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from scripts.run.errors import UserError

SECONDS = 10  # for one conversation; a template needs less than a millisecond
MEMORY = 1 << 30  # bytes that it may take
QUESTION = "Which of 7919 and 7917 is prime?"
OTHER_DAY = datetime(2031, 4, 5, 6, 7, 8, tzinfo=UTC)
ROLE = re.compile(r"\s*(system|user|assistant|developer|tool)\b")
Conversation = list[dict[str, str]]
log = logging.getLogger(__name__)


def render(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Conversation],
    asked: dict,
    where: object = None,
    day: datetime | None = None,
) -> list[str]:
    """The text of each conversation up to where the model begins to answer.

    Args:
        asked: `system`, `template` and `date` of the model, as in the model's file.
        where: what messages name; by default the folder of the tokenizer.
        day: what the template takes for today, where the model states no date; None: today.

    Raises:
        UserError: there is no template, or it fails, or takes too long or too much memory.
    """
    where = where or tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise UserError(f"{where}: it has no chat template, so nothing says how it is asked: add chat_template.jinja")
    system = [{"role": "system", "content": asked["system"]}] if asked["system"] else []
    whole = [[*system, *messages] for messages in conversations]
    fork = get_context("fork")  # which shares the tokenizer, and has no use for what it inherits but this
    receiver, sender = fork.Pipe(duplex=False)
    day = datetime.fromisoformat(asked["date"]) if asked["date"] else day
    process = fork.Process(target=_render, args=(sender, tokenizer, whole, asked["template"], day), daemon=True)
    process.start()
    sender.close()
    texts = []
    try:
        for _ in whole:
            if not receiver.poll(SECONDS):
                raise UserError(f"{where}: its chat template takes more than {SECONDS} s for one conversation: mend it")
            text, error = receiver.recv()
            if error:
                raise UserError(
                    f"{where}: its chat template fails on a question: {error}; what it asks for may stand in the "
                    "keys system and template of the model's file in config/models/"
                )
            texts.append(text)
    except EOFError:
        raise UserError(f"{where}: its chat template does not survive a question (memory?): mend it") from None
    finally:
        process.kill()
        process.join()
    return texts


def _render(
    sender: Connection,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Conversation],
    arguments: dict,
    day: datetime | None,
) -> None:
    """In the other process: send (text, "") or ("", error) for each conversation."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    mapped = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    if day:
        chat_template_utils.datetime = type("Another", (datetime,), {"now": staticmethod(lambda *_: day)})
    for messages in conversations:
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
            sender.send((text, ""))
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            sender.send(("", f"{type(error).__name__}: {error!s:.300}"))


def check_template(tokenizer: PreTrainedTokenizerBase, asked: dict, where: object) -> None:
    """See that a model is asked what it should be, before anything is spent on it.

    Args:
        asked: `think`, `system`, `template` and `date` of the model, as in the model's file.

    Raises:
        UserError: there is no template, it fails, leaves the question out, writes the day, or the BOS twice or not at
            all; or decoding would drop the end of the thought.
    """
    ask = [[{"role": "user", "content": QUESTION}]]
    (text,) = render(tokenizer, ask, asked, where)
    (later,) = render(tokenizer, ask, asked, where, OTHER_DAY)
    if QUESTION not in text:
        raise UserError(f"{where}: its chat template leaves the question out, or changes it: {text!r:.300}")
    if text != later:
        raise UserError(
            f"{where}: its chat template writes the day into the prompt, so that cells of two days would be asked "
            f"differently: {text!r:.300}; state a `date` in the model's file in config/models/"
        )
    _check_bos(tokenizer, text, where)
    opened, closed = asked["think"].split()
    if closed in text.rpartition(QUESTION)[2]:
        log.warning(
            "%s: its chat template closes the thought itself, so the model answers without thinking; arguments that "
            "open it stand under `template` in the model's file in config/models/",
            where,
        )
    ids = tokenizer(f"{opened}\n1\n{closed}\n2", add_special_tokens=False).input_ids
    if closed not in tokenizer.decode(ids, skip_special_tokens=True):
        raise UserError(
            f"{where}: its tokenizer calls {closed} special, and outputs are decoded without special tokens: nobody "
            'could tell the thought from the answer; set "special": false for it in tokenizer.json'
        )


def _check_bos(tokenizer: PreTrainedTokenizerBase, text: str, where: object) -> None:
    """One BOS where the tokenizer has one; not counted where it opens each turn."""
    if not (bos := tokenizer.bos_token):
        return
    behind = text.split(bos)[1:]
    if len(behind) > 1 and not all(ROLE.match(part) for part in behind):
        raise UserError(f"{where}: its chat template writes {len(behind)} BOS ({bos}): remove all but the first")
    adds = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    if not behind and adds:
        raise UserError(
            f"{where}: its tokenizer begins every text with the BOS ({bos}), and its chat template leaves it out: the "
            "model would be asked as it never was; write {{ bos_token }} at its beginning"
        )
