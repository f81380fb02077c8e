"""A model of the hub: what of a repository is taken, and which repositories are refused."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from scripts.models import arithmetic
from scripts.models import hub as from_hub
from scripts.models.hub import PROBE
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.read import read_models
from tests.conftest import ROOT
from tests.hub import COMMIT, Hub
from tests.test_fetch import hub  # noqa: F401 (a fixture)

FACTS = read_models()["tiny-qwen-s"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a real checkpoint in several shards, as they lie on the hub, with what is not to be taken."""
    folder, recipe = tmp_path_factory.mktemp("tiny"), arithmetic.RECIPES["tiny-qwen-s"]
    model = arithmetic.build_model(recipe, arithmetic.build_tokenizer())
    model.save_pretrained(folder, max_shard_size="300KB")
    arithmetic.build_tokenizer().save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    unwanted = ["pytorch_model.bin", "modeling_tiny.py", "original/consolidated.safetensors", "README.md"]
    return files | dict.fromkeys(unwanted, b"never fetched") | {"LICENSE": b"Apache-2.0"}


def bring(tmp_path: Path, **changes: object) -> set[str]:
    """Run the stage for the tiny model, without a record, and return the names in the checkpoint."""
    settings = FACTS | {"repository": "owner/tiny", "revision": COMMIT, "local": ""} | changes
    from_hub.main.registered_commands[0].callback.__wrapped__(
        manifest=tmp_path / "manifest.json", checkpoint=tmp_path / "checkpoint", model="tiny", settings=settings
    )
    return {path.name for path in (tmp_path / "checkpoint").rglob("*")}


@pytest.fixture
def model_hub(
    hub: Hub,  # noqa: F811
    tiny: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Hub:
    monkeypatch.setattr(record, "add_facts", lambda **_: None)
    monkeypatch.setattr("scripts.run.read.SCHEMAS", ROOT / "config/schemas")
    hub.repositories["models/owner/tiny"] = dict(tiny)
    return hub


def test_a_model_is_its_weights_configuration_and_tokenizer(model_hub: Hub, tmp_path: Path):
    names = bring(tmp_path)
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json", "LICENSE"} <= names
    asked = {request.rsplit("/", 1)[1] for request in model_hub.requests if "/resolve/" in request}
    assert asked == names
    assert not names & {"pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "README.md"}


def test_a_local_copy_needs_no_hub(model_hub: Hub, tiny: dict[str, bytes], tmp_path: Path):
    (tmp_path / "copy").mkdir()
    for name, content in tiny.items():
        if "/" not in name:
            (tmp_path / "copy" / name).write_bytes(content)
    assert "pytorch_model.bin" not in bring(tmp_path, local=str(tmp_path / "copy"))
    assert not model_hub.requests


def test_a_model_of_pickles_is_refused_and_none_is_fetched(model_hub: Hub, tmp_path: Path):
    files = model_hub.repositories["models/owner/tiny"]
    for name in [name for name in files if name.startswith("model")]:
        del files[name]
    with pytest.raises(UserError, match=r"tiny .*no weights as safetensors among .*pytorch_model\.bin"):
        bring(tmp_path)
    assert not any("/resolve/" in request for request in model_hub.requests)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_with_code_of_its_own_is_refused_before_its_weights(model_hub: Hub, tmp_path: Path, file: str):
    files = model_hub.repositories["models/owner/tiny"]
    code = {"AutoModelForCausalLM": "modeling_tiny.Model"}
    files[file] = json.dumps(json.loads(files[file]) | {"auto_map": code}).encode()
    with pytest.raises(UserError, match=rf"auto_map in {file} asks for code .*modeling_tiny\.Model"):
        bring(tmp_path)
    assert not any("safetensors" in request for request in model_hub.requests)


@pytest.mark.parametrize("fact", ["parameters", "context_length", "head_dim", "dtype"])
def test_a_model_other_than_the_table_says_is_refused(model_hub: Hub, tmp_path: Path, fact: str):
    with pytest.raises(UserError, match=rf"config/models/tiny\.yaml: facts\.{fact} is 7, models tiny .* has"):
        bring(tmp_path, **{fact: 7})


def test_a_lost_shard_is_noticed(model_hub: Hub, tmp_path: Path):
    files = model_hub.repositories["models/owner/tiny"]
    del files[next(name for name in files if name.startswith("model-00002"))]
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors is missing, which model.safetensors.index"):
        bring(tmp_path)


def test_a_tokenizer_that_transformers_would_spoil_is_mended(tmp_path: Path):
    """As of R1-Distill-Llama: a byte-level tokenizer.json under the name of a class that drops spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([PROBE] * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    named = tmp_path / "stated.json"
    named.write_text('{"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<think>"}')
    os.link(named, tmp_path / "tokenizer_config.json")
    spoilt = AutoTokenizer.from_pretrained(tmp_path)
    assert spoilt.decode(spoilt("Wait so", add_special_tokens=False).input_ids) != "Wait so"
    assert from_hub.settle_tokenizer(tmp_path, "tiny") == "PreTrainedTokenizerFast"
    mended = AutoTokenizer.from_pretrained(tmp_path)
    assert mended(PROBE, add_special_tokens=False).input_ids == tokenizer.encode(PROBE).ids
    assert "LlamaTokenizerFast" in named.read_text()  # the store's copy, of which this was a link
