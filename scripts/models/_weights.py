"""Whether a folder's weights are those of the model that its config.json describes, whole and finite.

Everything is checked before a model enters the pipeline: what is missing transformers fills with random numbers, what
is too much it leaves out, and what is not finite makes every later number one of a model that nobody has.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.run.errors import UserError

WEIGHTS = "model*.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SHOWN = 3  # names of tensors in a message


def read_json(path: Path, where: object) -> dict[str, Any]:
    """A JSON file with one object.

    Raises:
        UserError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{where}: {path.name} is no JSON ({error}): fetch it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: {path.name} holds no object: fetch it anew")
    return found


def check_config(path: Path, where: object) -> None:
    """Refuse a config.json of what is no plain causal language model in full precision.

    Raises:
        UserError: it is damaged, the model is quantized already, or transformers does not know its architecture.
    """
    config = read_json(path, where)
    if method := config.get("quantization_config"):
        kind = method.get("quant_method", "?") if isinstance(method, dict) else "?"
        raise UserError(
            f"{where}: config.json has a quantization_config ({kind}): the model is quantized already, and would be "
            "quantized twice; add the model that it was made from, and name this one there "
            "(config/models/NAME.yaml, published)"
        )
    if "text_config" in config:
        raise UserError(f"{where}: config.json holds another model's in text_config: take the language model alone")
    if config.get("dtype", config.get("torch_dtype")) not in DTYPES:
        raise UserError(f"{where}: config.json states no dtype among {', '.join(DTYPES)}: the weights would be cast")
    try:
        described = AutoConfig.from_pretrained(path.parent)
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(described)
    except Exception as error:  # noqa: BLE001 - transformers raises what it likes
        raise UserError(f"{where}: transformers makes no model of config.json: {one_line(error)}") from None


def check_weights(checkpoint: Path, where: object) -> None:
    """Compare index, files and tensors with each other and with the architecture, and look at every value.

    Raises:
        UserError: names the file or the tensor.
    """
    places = {}
    files = sorted(checkpoint.glob(WEIGHTS))
    stated = DTYPES[dtype_of(read_json(checkpoint / "config.json", where))]
    for path in files:
        for name, dtype in headers(path, where):
            if name in places:
                raise UserError(f"{where}: {name} is in {places[name]} and in {path.name}: one of them is too much")
            if dtype != stated:
                raise UserError(
                    f"{where}: {name} in {path.name} is stored as {dtype}, config.json states {stated}: it would be "
                    "cast without a word; take the weights in one dtype, and state that"
                )
            places[name] = path.name
    check_index(checkpoint, places, {path.name for path in files}, where)
    _check_names(checkpoint, where)
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                if not tensors.get_tensor(name).isfinite().all():
                    raise UserError(f"{where}: {name} in {path.name} has values that are not finite: fetch it anew")


def headers(path: Path, where: object) -> Iterator[tuple[str, str]]:
    """Name and dtype of every tensor of a file."""
    try:
        with safe_open(path, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                yield name, tensors.get_slice(name).get_dtype()
    except SafetensorError as error:
        with path.open("rb") as stream:
            start = stream.read(len(POINTER))
        reason = "is empty" if not start else f"is cut or damaged ({error})"
        if start == POINTER:
            reason = "is a pointer of Git LFS, not the file itself (git lfs pull brings it)"
        raise UserError(f"{where}: {path.name} {reason}: fetch it anew") from None


def check_index(checkpoint: Path, places: dict[str, str], files: set[str], where: object) -> None:
    """Index and files must agree: vLLM reads the one, transformers the other."""
    if not (checkpoint / INDEX).exists():
        if len(files) > 1:
            raise UserError(f"{where}: {', '.join(sorted(files))}, but no {INDEX} that says which belong together")
        return
    index = read_json(checkpoint / INDEX, where).get("weight_map")
    if not isinstance(index, dict):
        raise UserError(f"{where}: {INDEX} has no weight_map: fetch it anew")
    if absent := sorted(set(index.values()) - files):
        raise UserError(f"{where}: {absent[0]} is missing, which {INDEX} names: fetch it anew")
    if stray := sorted(files - set(index.values())):
        raise UserError(f"{where}: {stray[0]} is not in {INDEX}: whose weights are they? Remove it, or mend the index")
    if wrong := sorted(name for name in index.keys() | places.keys() if index.get(name) != places.get(name)):
        raise UserError(
            f"{where}: {INDEX} has {wrong[0]} in {index.get(wrong[0], 'no file')}, it is in "
            f"{places.get(wrong[0], 'none')}: fetch both anew"
        )


def _check_names(checkpoint: Path, where: object) -> None:
    """Names and shapes, by transformers' own loader, which knows what is tied and what was renamed since."""
    try:
        _, found = AutoModelForCausalLM.from_pretrained(
            checkpoint, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # noqa: BLE001 - transformers raises what it likes
        raise UserError(f"{where}: transformers cannot load the weights: {one_line(error)}") from None
    for kind, reason in (
        ("missing_keys", "are missing, and would be random numbers"),
        ("unexpected_keys", "belong to no part of the model, and would be left out"),
        ("mismatched_keys", "have other shapes than config.json asks for"),
        ("error_msgs", "cannot be loaded"),
    ):
        if names := sorted(str(name[0] if isinstance(name, tuple) else name) for name in found.get(kind, ())):
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(
                f"{where}: {', '.join(names[:SHOWN])}{more} {reason}: the weights are not those of the "
                "architecture that config.json names; take or merge them anew"
            )


def dtype_of(config: dict[str, Any]) -> Any:
    """What config.json states, by its name of today or by the older one; None: nothing."""
    return config.get("dtype") or config.get("torch_dtype")


def one_line(error: Exception) -> str:
    """The beginning of what an error of another library says, for a sentence of ours."""
    return " ".join(str(error).split())[:300]
