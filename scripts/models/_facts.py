"""What a model's own files say of it, under the names of `facts` in config/models/."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.architectures import EXPERTS
from scripts.models._weights import DTYPES, dtype_of, read_json
from scripts.quantize._names import OF_A_BLOCK
from scripts.run.errors import UserError

Read = Callable[[str, int, int], bytes]  # a file's name, its first byte and the one behind the last → content
STATED = [
    "max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads",
]  # fmt: skip
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0}  # what is not stated changes nothing
HEADER_LIMIT = 100 << 20  # bytes, as safetensors has it
STORED = {stored: getattr(torch, name) for name, stored in DTYPES.items()}
LARGE = 100  # a key bias beyond which keys are as good as constant; that of R1-Qwen-1.5B reaches 402


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: str
    dtype: str
    shape: list[int]
    start: int
    stop: int


def reader(folder: Path) -> Read:
    """Reads the files of a folder."""

    def read(name: str, start: int, stop: int) -> bytes:
        with (folder / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    return read


def facts_of(config: Path, weights: Iterable[str], read: Read, where: object) -> dict[str, object]:
    """All that config.json and the headers of the weights say, without the weights but for the biases of keys.

    Args:
        config: path of config.json.
        weights: names of the safetensors files.
        read: brings bytes of these.

    Raises:
        UserError: config.json leaves one out, or a header is none.
    """
    whole = read_json(config, where)
    text = whole.get("text_config")  # of a model that sees pictures, too
    stated = whole | (text if isinstance(text, dict) else {})
    for name in STATED:
        if name not in stated:
            raise UserError(f"{where}: config.json does not say {name}, which the pipeline plans with: add it")
    tensors = {key: tensor for name in weights for key, tensor in header(name, read, where).items()}
    once = stated.get("tie_word_embeddings") and "lm_head.weight"  # some store it all the same
    return {
        "architecture": str(whole.get("model_type", "none")),
        "dtype": dtype_of(stated),
        "context_length": stated["max_position_embeddings"],
        "parameters": sum(math.prod(tensor.shape) for key, tensor in tensors.items() if key != once),
        "layers": stated["num_hidden_layers"],
        "hidden_size": stated["hidden_size"],
        "intermediate_size": stated["intermediate_size"],
        "heads": stated["num_attention_heads"],
        "kv_heads": stated["num_key_value_heads"],
        "head_dim": stated.get("head_dim") or stated["hidden_size"] // stated["num_attention_heads"],
        "key_bias": _key_bias(tensors, read, where),
    } | _of_experts(stated, tensors)


def _of_experts(stated: dict, tensors: dict[str, Stored]) -> dict[str, object]:
    """What the sizes of attention and of one MLP do not tell of a model with experts; nothing of other models."""
    if stated.get("model_type") not in EXPERTS:
        return {}
    linear = [
        math.prod(tensor.shape) for key, tensor in tensors.items()
        if OF_A_BLOCK.fullmatch(key) and len(tensor.shape) > 1 and not key.endswith("bias")
    ]  # fmt: skip
    size = stated.get("moe_intermediate_size", stated["intermediate_size"])
    return {"linear_parameters": sum(linear), "moe_intermediate_size": size}


def sampling_of(generation: Path, where: object) -> dict[str, object]:
    """How generation_config.json recommends to sample, under `sampling`; nothing where it does not."""
    stated = read_json(generation, where)
    if not stated.get("do_sample"):
        return {}
    return {"sampling": {name: stated.get(name, default) for name, default in PLAIN.items()}}


def header(name: str, read: Read, where: object) -> dict[str, Stored]:
    """The tensors of a file by name."""
    length = int.from_bytes(read(name, 0, 8), "little")
    try:
        if not 2 <= length <= HEADER_LIMIT:
            raise ValueError(f"{length} bytes of header")
        found = {}
        for key, tensor in json.loads(read(name, 8, 8 + length)).items():
            if key == "__metadata__":
                continue
            start, stop = (8 + length + int(offset) for offset in tensor["data_offsets"])
            found[key] = Stored(name, str(tensor["dtype"]), [int(size) for size in tensor["shape"]], start, stop)
            kind = STORED.get(found[key].dtype)
            if kind and stop - start != math.prod(found[key].shape) * kind.itemsize:
                raise ValueError(f"{key!r:.80} has other bytes than its shape")
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: {name} does not begin as safetensors do ({error!s:.200}): fetch it anew") from None
    return found


def _key_bias(tensors: dict[str, Stored], read: Read, where: object) -> str:
    """Whether keys have biases, and whether the largest magnitude dwarfs them."""
    biases = [tensor for key, tensor in tensors.items() if key.endswith(".k_proj.bias") and tensor.dtype in STORED]
    largest = 0.0
    for bias in biases:
        content = bytearray(read(bias.file, bias.start, bias.stop))
        if not content or len(content) != bias.stop - bias.start:
            raise UserError(f"{where}: {bias.file} is cut: fetch it anew")
        largest = max(largest, torch.frombuffer(content, dtype=STORED[bias.dtype]).abs().max().item())
    return ("large" if largest > LARGE else "small") if biases else "none"
