"""Calibration corpora as token ids: a model's own reasoning, or plain text, in random windows.

Own reasoning as in "Quantization Hurts Reasoning?" (arXiv 2504.04823): prompts and answers of the full-precision
model joined by blank lines, then windows of equal length at random places.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.stage import Input, Output, Parameter, Settings, stage
from scripts.table import column, read_rows, write_table

SCHEMA = pa.schema(
    [
        column("model", pa.string(), "name in config/models.tsv"),
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


@stage
def main(
    source: Input, checkpoint: Input, output: Output, model: Parameter, corpus: Parameter, settings: Settings
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if source.suffix == ".parquet":
        ids = reasoning_ids(tokenizer, read_rows(source))
    else:
        ids = tokenizer(Path(source).read_text(), add_special_tokens=False).input_ids
    record.add_facts(source_tokens=len(ids))
    chosen = windows(ids, settings["sequences"], settings["length"], settings["seed"])
    write_table(
        output,
        [{"model": model, "corpus": corpus, "sequence": i, "input_ids": w} for i, w in enumerate(chosen)],
        SCHEMA,
    )


if __name__ == "__main__":
    main()
