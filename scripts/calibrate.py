"""Calibration corpora as token ids: a model's own reasoning, the texts of a dataset, or plain text.

As in "Quantization Hurts Reasoning?" (arXiv 2504.04823) and its code: own reasoning is prompts and answers of the
full-precision model joined by blank lines, then windows of equal length at random places; WikiText2 the same of its
texts; for AWQ and KVQuant the Pile is shuffled, and each text begins with a BOS where the model has one.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.rows import read_folder
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.stage import Input, Output, Parameter, Settings, stage
from scripts.table import column, read_rows, write_table

SCHEMA = pa.schema(
    [
        column("model", pa.string(), "name of a file in config/models/"),
        column("corpus", pa.string(), "name in the study's config"),
        column("sequence", pa.int64(), "number of the sequence"),
        column("input_ids", pa.list_(pa.int32()), "token ids of the sequence"),
    ]
)


def reasoning_ids(tokenizer: PreTrainedTokenizerBase, answers: list[dict]) -> list[int]:
    """Token ids of all prompts and answers, joined by blank lines.

    Raises:
        UserError: the ids are not about as many as were read and generated (the study's own code took only the first
            character of each answer).
    """
    text = "\n\n".join(answer["prompt"] + answer["output"] for answer in answers)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    expected = sum(answer["prompt_tokens"] + answer["output_tokens"] for answer in answers)
    if abs(len(ids) - expected) > 0.05 * expected:
        raise UserError(
            f"own reasoning has {len(ids)} tokens, but {expected} were read and generated: "
            "the calibration text is not what the model wrote"
        )
    return ids


def windows(ids: list[int], sequences: int, length: int, seed: int) -> list[list[int]]:
    """`sequences` windows of `length` ids at random places, drawn with replacement.

    Raises:
        UserError: the text is shorter than one window.
    """
    if len(ids) < length:
        raise UserError(f"the corpus has {len(ids)} tokens, fewer than one sequence of {length}: lower its length")
    starts = np.random.default_rng(seed).integers(0, len(ids) - length + 1, sequences)
    return [ids[start : start + length] for start in starts]


def shuffled(texts: list[str], seed: int) -> Iterator[str]:
    """The texts in the order in which the library `datasets` shuffles them, which the study uses."""
    return (texts[i] for i in np.random.default_rng(seed).permutation(len(texts)))


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text of its own: with one BOS where the model has one, whatever class of tokenizer was loaded."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + tokenizer(text, add_special_tokens=False).input_ids


def documents(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int, length: int) -> list[list[int]]:
    """Token ids of the first `count` texts, truncated to `length` (KVQuant)."""
    return [text_ids(tokenizer, text)[:length] for text in islice(texts, count)]


def blocks(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int, length: int) -> list[list[int]]:
    """The first `count` texts of at most `length` tokens, longer ones skipped, joined and cut into blocks (AWQ).

    Raises:
        UserError: they do not fill one block.
    """
    short = (ids for text in texts if 0 < len(ids := text_ids(tokenizer, text.strip())) <= length)
    joined = [token for ids in islice(short, count) for token in ids]
    if len(joined) < length:
        raise UserError(f"the texts of at most {length} tokens have {len(joined)} together: lower the corpus' length")
    return [joined[start : start + length] for start in range(0, len(joined) - length + 1, length)]


@stage
def main(
    source: Input, checkpoint: Input, output: Output, model: Parameter, corpus: Parameter, settings: Settings
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    sequences, length, seed = settings["sequences"], settings["length"], settings["seed"]
    texts = [row["text"] for row in read_folder(source, ["text"])] if source.is_dir() else []
    if settings["cut"] == "windows":
        if source.suffix == ".parquet":
            ids = reasoning_ids(tokenizer, read_rows(source, without="token_ids"))
        else:
            text = "\n\n".join(text.strip() for text in texts) if texts else source.read_text(encoding="utf-8")
            ids = tokenizer(text, add_special_tokens=False).input_ids
        record.add_facts(source_tokens=len(ids))
        chosen = windows(ids, sequences, length, seed)
    else:
        cut = {"blocks": blocks, "documents": documents}[settings["cut"]]
        chosen = cut(tokenizer, shuffled(texts, seed), sequences, length)
    write_table(
        output,
        [{"model": model, "corpus": corpus, "sequence": i, "input_ids": w} for i, w in enumerate(chosen)],
        SCHEMA,
    )


if __name__ == "__main__":
    main()
