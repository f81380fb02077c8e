"""What the files of a quantized checkpoint say of themselves: safetensors with a `quantization_config`, or a GGUF."""

import functools
import math
import re
from pathlib import Path
from typing import Any

import gguf
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, PretrainedConfig

from scripts.models._facts import header, reader
from scripts.models._weights import one_line, read_json
from scripts.quantize._names import LINEAR_WEIGHT
from scripts.run.errors import UserError

GGUF_LINEAR = re.compile(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight")
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


def sizes_of(folder: Path, model: Path, where: object) -> dict[str, Any]:
    """Bits and bytes, as the columns of `efficiency.parquet` that are named alike.

    Args:
        folder: of the quantized checkpoint.
        model: of the model in full precision, whose linear layers say how many weights there are.
        where: what messages name.

    Raises:
        UserError: a file is damaged, or holds none of the model's linear layers.
    """
    file = gguf_in(folder)
    if file:
        stored = {tensor.name: int(tensor.n_bytes) for tensor in read_gguf(file).tensors}
        linear = sum(size for name, size in stored.items() if GGUF_LINEAR.fullmatch(name))
        config: dict[str, Any] = {}
    else:
        stored, linear = _stored(folder, where), 0
        config = read_json(folder / "config.json", where).get("quantization_config") or {}
    weights = _weights(model)
    if not file:
        layers = {name.removesuffix(".weight") for name in weights}
        parts = (name.rpartition(".") for name in stored)
        linear = sum(stored[f"{layer}.{part}"] for layer, _, part in parts if layer in layers and part != "bias")
    if not linear:
        raise UserError(f"{where}: it has none of the model's linear layers ({min(weights)} …): whose is it?")
    return {
        "weight_bits": 8 * linear / sum(weights.values()),
        "weight_bytes": sum(stored.values()),
        "activation_bits": _input_bits(config),
        "kv_bits": _cache_bits(config),
    }


def _stored(folder: Path, where: object) -> dict[str, int]:
    """Bytes of each tensor of the safetensors files of a folder."""
    read = reader(folder)
    files = sorted(folder.glob("*.safetensors"))
    tensors = [item for path in files for item in header(path.name, read, where).items()]
    return {name: tensor.stop - tensor.start for name, tensor in tensors}


def _weights(model: Path) -> dict[str, int]:
    """Number of weights of each linear layer of a model's blocks."""
    found = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                if LINEAR_WEIGHT.fullmatch(name):
                    found[name] = math.prod(tensors.get_slice(name).get_shape())
    return found


def _input_bits(config: dict[str, Any]) -> int | None:
    """Bits of the inputs of linear layers, where a quantization_config says that they are rounded."""
    groups = config.get("config_groups")
    if isinstance(groups, dict):
        inputs = [group.get("input_activations") for group in groups.values() if isinstance(group, dict)]
        return next((part["num_bits"] for part in inputs if isinstance(part, dict) and "num_bits" in part), None)
    inner = config.get("quantization", config)
    method = inner.get("quant_algo", config.get("quant_method")) if isinstance(inner, dict) else None
    return INPUT_BITS.get(str(method).lower())


def _cache_bits(config: dict[str, Any]) -> int | None:
    """Bits of keys and values, where a quantization_config says that they are rounded."""
    inner = config.get("quantization", config)
    for part in (config, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get("kv_cache_scheme"), dict):
            return part["kv_cache_scheme"].get("num_bits")
        if isinstance(part.get("kv_cache_quant_algo"), str):
            return {"fp8": 8, "nvfp4": 4}.get(part["kv_cache_quant_algo"].lower())
    return None
