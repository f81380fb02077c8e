"""What the files of a quantized checkpoint say of themselves: safetensors with a `quantization_config`, or a GGUF."""

import functools
import math
import re
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer
from transformers import AutoConfig, PretrainedConfig

from scripts.models._facts import Stored, header, reader
from scripts.models._weights import one_line, read_json
from scripts.quantize._names import OF_A_BLOCK
from scripts.run.errors import UserError

GGUF_BLOCK = re.compile(r"blk\.\d+\..*")
# Numbers of the inputs of linear layers that the name of a method stands for, in lower case; the others are asked more.
INPUT_BITS = {"fp8": 8, "fbgemm_fp8": 8, "modelopt_fp4": 4, "nvfp4": 4, "modelopt_mxfp8": 8, "mxfp8": 8}


@functools.lru_cache(maxsize=1)  # reading takes seconds, of which most go into the vocabulary
def read_gguf(file: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(file)


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file that a folder consists of, or None."""
    return next(folder.glob("*.gguf"), None)


def config_of(folder: Path, where: object) -> PretrainedConfig:
    """The configuration of the model, as transformers reads it.

    Raises:
        UserError: transformers knows no such model.
    """
    file = gguf_in(folder)
    try:
        return AutoConfig.from_pretrained(folder, **({"gguf_file": file.name} if file else {}))
    except Exception as error:  # noqa: BLE001 - transformers raises what it likes
        raise UserError(f"{where}: transformers makes no model of it: {one_line(error)}") from None


def tokens_of(folder: Path, where: object) -> dict[int, str]:
    """The vocabulary by number, special tokens among it; empty where the files hold none.

    Raises:
        UserError: they cannot be read.
    """
    try:
        if file := gguf_in(folder):
            field = read_gguf(file).fields["tokenizer.ggml.tokens"]
            return dict(enumerate(field.contents()))
        path = folder / "tokenizer.json"
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True) if path.exists() else {}
    except Exception as error:  # noqa: BLE001 - both raise what they like
        raise UserError(f"{where}: its tokenizer cannot be read ({one_line(error)}): take another") from None
    return {number: token for token, number in vocabulary.items()}


def method_of(folder: Path, where: object) -> dict[str, Any]:
    """What safetensors say of how they are quantized; nothing where they are in full precision."""
    if method := read_json(folder / "config.json", where).get("quantization_config"):
        return method
    older = folder / "hf_quant_config.json"  # ModelOpt's
    return {"quant_method": "modelopt"} | read_json(older, where) if older.exists() else {}


def sizes_of(folder: Path, model: Path, where: object) -> dict[str, Any]:
    """Bits and bytes, as the columns of `efficiency.parquet` that are named alike.

    Args:
        folder: of the quantized checkpoint.
        model: of the model in full precision, whose blocks say how many weights there are.
        where: what messages name.

    Raises:
        UserError: a file is damaged, or holds none of the model's blocks.
    """
    ours = _tensors(model, where)
    matrices = sum(math.prod(tensor.shape) for name, tensor in ours.items() if _in_a_matrix(name, ours))
    if file := gguf_in(folder):
        method = {}
        tensors = read_gguf(file).tensors
        stored = {tensor.name: int(tensor.n_bytes) for tensor in tensors}
        linear = sum(stored[t.name] for t in tensors if GGUF_BLOCK.fullmatch(t.name) and len(t.shape) > 1)
    else:
        method = method_of(folder, where)
        stored = {name: tensor.stop - tensor.start for name, tensor in _tensors(folder, where).items()}
        linear = sum(size for name, size in stored.items() if _in_a_matrix(name, ours))
    if not linear:
        raise UserError(f"{where}: it has no blocks of layers such as the model's ({min(ours)} …): whose is it?")
    return {
        "weight_bits": 8 * linear / matrices,
        "weight_bytes": sum(stored.values()),
        "activation_bits": _input_bits(method),
        "kv_bits": _cache_bits(method),
    }


def _tensors(folder: Path, where: object) -> dict[str, Stored]:
    """Where each tensor of a folder's safetensors lies."""
    read = reader(folder)
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for path in files for name, tensor in header(path.name, read, where).items()}


def _in_a_matrix(name: str, model: dict[str, Stored]) -> bool:
    """Is it a matrix of a block, or stored of one? All is but what the model itself has of one dimension."""
    return OF_A_BLOCK.fullmatch(name) is not None and (name not in model or len(model[name].shape) > 1)


def _input_bits(method: dict[str, Any]) -> int | None:
    """Bits of the inputs of linear layers, where it says that they are rounded."""
    groups = method.get("config_groups")
    if isinstance(groups, dict):
        inputs = [group.get("input_activations") for group in groups.values() if isinstance(group, dict)]
        return next((_bits(part.get("num_bits")) for part in inputs if isinstance(part, dict)), None)
    inner = method.get("quantization", method)
    name = inner.get("quant_algo", method.get("quant_method")) if isinstance(inner, dict) else None
    return INPUT_BITS.get(str(name).lower())


def _cache_bits(method: dict[str, Any]) -> int | None:
    """Bits of keys and values, where it says that they are rounded."""
    inner = method.get("quantization", method)
    for part in (method, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get("kv_cache_scheme"), dict):
            return _bits(part["kv_cache_scheme"].get("num_bits"))
        if isinstance(part.get("kv_cache_quant_algo"), str):
            return {"fp8": 8, "nvfp4": 4}.get(part["kv_cache_quant_algo"].lower())
    return None


def _bits(value: Any) -> int | None:
    """What can be a number of bits; the files are anybody's."""
    return value if type(value) is int and 1 <= value <= 16 else None
