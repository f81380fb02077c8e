"""Weights that are not those of their model are refused by name, before anything is quantized."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.models import arithmetic
from scripts.models._weights import INDEX, check_config, check_weights
from scripts.run.errors import UserError

RECIPE = arithmetic.RECIPES["tiny-qwen-m"]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several shards, with a head of its own."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    arithmetic.build_model(RECIPE, arithmetic.build_tokenizer()).save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def shard(model: Path, number: int = 0) -> Path:
    return sorted(model.glob("model-*.safetensors"))[number]


def edit(model: Path, change: Callable[[Tensors], Tensors]) -> None:
    """All tensors of the model, changed, in one file."""
    tensors: Tensors = {}
    for path in sorted(model.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (model / INDEX).unlink(missing_ok=True)
    save_file(change(tensors), model / "model.safetensors", {"format": "pt"})


def change_config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def one(tensors: Tensors, name: str, value: float) -> Tensors:
    tensors[name].view(-1)[3] = value
    return tensors


DOWN = "model.layers.1.mlp.down_proj.weight"
TENSORS = {
    r"base_model\..* and .* more|are missing": lambda t: {f"base_model.{name}": x for name, x in t.items()},
    r"lm_head\.weight are missing": lambda t: {name: x for name, x in t.items() if name != "lm_head.weight"},
    r"model\.foo belong to no part": lambda t: t | {"model.foo": torch.ones(3)},
    r"model\.norm\.weight have other shapes": lambda t: t | {"model.norm.weight": torch.ones(3)},
    rf"{DOWN} in model\.safetensors has values that are not finite": lambda t: one(t, DOWN, float("nan")),
    rf"{DOWN} in model.safetensors has values that are not": lambda t: one(t, DOWN, float("-inf")),
    rf"{DOWN} .*is stored as F8_E4M3, config\.json states F32": lambda t: t | {DOWN: t[DOWN].to(torch.float8_e4m3fn)},
    rf"{DOWN} .*is stored as BF16": lambda t: t | {DOWN: t[DOWN].bfloat16()},
}
FILES = {
    r"model-00001-of-.* is cut or damaged": lambda m: shard(m).write_bytes(shard(m).read_bytes()[:-1000]),
    r"model-00001-of-.* is empty": lambda m: shard(m).write_bytes(b""),
    r"is a pointer of Git LFS": lambda m: shard(m).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0"
    ),
    r"model-00002-of-.* is missing, which model\.safetensors\.index\.json names": lambda m: shard(m, 1).unlink(),
    r"is in model-00001.* and in model\.safetensors": lambda m: shutil.copy(shard(m), m / "model.safetensors"),
    r"model-9\.safetensors is not in model\.safetensors\.index": lambda m: save_file(
        {"x": torch.ones(1)}, m / "model-9.safetensors"
    ),
    r"but no model\.safetensors\.index\.json": lambda m: (m / INDEX).unlink(),
    r"model\.safetensors\.index\.json is no JSON": lambda m: (m / INDEX).write_text('{"weight_map": {'),
    r"has no weight_map": lambda m: (m / INDEX).write_text("{}"),
}
CONFIGS = {
    r"quantized already.* there \(config/models/NAME.yaml, published\)": {
        "quantization_config": {"quant_method": "fp8"}
    },
    r"another model's in text_config": {"text_config": {"hidden_size": 64}},
    r"states no dtype": {"dtype": None, "torch_dtype": None},
    r"transformers makes no model": {"model_type": "nobody-knows-it"},
}


def test_a_whole_model_is_accepted(model: Path):
    check_config(model / "config.json", "here")
    check_weights(model, "here")
    edit(model, dict)
    check_weights(model, "here")


@pytest.mark.parametrize("message", TENSORS)
def test_tensors_that_are_not_the_models_are_refused(model: Path, message: str):
    edit(model, TENSORS[message])
    with pytest.raises(UserError, match=message):
        check_weights(model, "here")


@pytest.mark.parametrize("message", FILES)
def test_files_that_are_not_whole_or_disagree_are_refused(model: Path, message: str):
    FILES[message](model)
    with pytest.raises(UserError, match=f"here: .*{message}"):
        check_weights(model, "here")


@pytest.mark.parametrize("message", CONFIGS)
def test_a_configuration_of_something_else_is_refused(model: Path, message: str):
    change_config(model, **CONFIGS[message])
    with pytest.raises(UserError, match=message):
        check_config(model / "config.json", "here")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf{}", b'{"a": ', b"[]", b"\xff\xfe", b""])
def test_a_damaged_configuration_is_refused_in_words(model: Path, content: bytes):
    (model / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"here: config\.json (is no JSON|holds no object)"):
        check_config(model / "config.json", "here")
