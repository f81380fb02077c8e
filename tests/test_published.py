"""Checkpoints that others published: compared with their model before they are fetched, served with its tokenizer."""

import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from scripts import published
from scripts.engine import read_engine
from scripts.fakequant.settings import is_foreign
from scripts.hub import Source
from scripts.manifest import write_manifest
from scripts.models import arithmetic
from scripts.quantize import published as served
from scripts.run import record
from scripts.run.config import load
from scripts.run.errors import UserError
from tests.conftest import ROOT, TINY_STUDY
from tests.hub import COMMIT, Hub
from tests.test_fetch import hub  # noqa: F401 (a fixture)

HUB = {"local": "", "repository": "owner/tiny-int4", "revision": COMMIT, "file": ""}
LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model in full precision, as the stage of models leaves it; facts of records go to `tmp_path`."""
    monkeypatch.setattr(record, "add_facts", lambda **facts: FACTS.update(facts))
    FACTS.clear()
    folder = tmp_path / "results/models/tiny/checkpoint"
    tokenizer = arithmetic.build_tokenizer()
    arithmetic.build_model(arithmetic.RECIPES["tiny-qwen-s"], tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, folder.with_name("manifest.json"))
    return folder


FACTS: dict = {}


@pytest.fixture
def theirs(model: Path, tmp_path: Path) -> Path:
    """What somebody made of it: eight bits by channel, and a chat template of their own."""
    folder = tmp_path / "theirs"
    shutil.copytree(model, folder)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = tensor.abs().amax(1, keepdim=True) / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale.bfloat16()
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    method = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}
    change(folder / "config.json", quantization_config=method | {"ignore": ["lm_head"]})
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}, in their way: ")
    return folder


def change(path: Path, **keys: object) -> None:
    text = json.dumps(json.loads(path.read_text()) | keys)
    path.unlink()
    path.write_text(text)


def bring(model: Path, settings: dict) -> Path:
    """Run the stage, without a record, and return the folder that it fills."""
    folder = model.parents[2] / "published/tiny/int4/checkpoint"
    local = settings["local"]
    files = sorted(Path(local).iterdir()) if Path(local).is_dir() else [Path(local)]
    published.main.registered_commands[0].callback.__wrapped__(
        model=model, manifest=folder.with_name("manifest.json"), checkpoint=folder, settings=settings,
        files=files if local else [],
    )  # fmt: skip
    return folder


def serve(model: Path, folder: Path) -> Path:
    """What is served of it."""
    checkpoint = model.parents[2] / "quantize/tiny/published/int4/checkpoint"
    served.main.registered_commands[0].callback.__wrapped__(
        model=model, published=folder, checkpoint=checkpoint, manifest=checkpoint.with_name("manifest.json")
    )
    return checkpoint


def local(path: Path) -> dict:
    return {"local": str(path), "repository": "", "revision": "", "file": ""}


def test_it_is_asked_as_its_model_is_and_its_sizes_are_those_of_its_files(model: Path, theirs: Path):
    checkpoint = serve(model, bring(model, local(theirs)))
    assert FACTS["replaced"] == ["chat_template.jinja"]
    assert FACTS["differs_from_model"] == {}
    own, given = (AutoTokenizer.from_pretrained(folder) for folder in (model, checkpoint))
    assert given.chat_template == own.chat_template
    assert "their way" in (theirs / "chat_template.jinja").read_text()  # which a link would have altered
    assert (checkpoint / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    sizes = json.loads(checkpoint.with_name("manifest.json").read_text())["sizes"]
    weights = load_file(theirs / "model.safetensors")
    linear = [(name, tensor) for name, tensor in weights.items() if "_proj.weight" in name]
    numbers = sum(tensor.numel() for name, tensor in linear if name.endswith("weight"))
    assert 8 * numbers < sum(8 * tensor.nbytes for _, tensor in linear)  # the scales are counted
    assert sizes == {
        "weight_bits": 8 * sum(tensor.nbytes for _, tensor in linear) / numbers,
        "weight_bytes": sum(tensor.nbytes for tensor in weights.values()),
        "activation_bits": 8,
        "kv_bits": None,
    }
    assert read_engine(checkpoint) == {}


def test_a_cache_that_it_states_is_asked_of_the_engine(model: Path, theirs: Path):
    method = json.loads((theirs / "config.json").read_text())["quantization_config"]
    change(theirs / "config.json", quantization_config=method | {"kv_cache_scheme": {"num_bits": 8, "type": "float"}})
    checkpoint = serve(model, bring(model, local(theirs)))
    assert read_engine(checkpoint) == {"kv_cache_dtype": "fp8", "kv_bits": 8}
    assert json.loads(checkpoint.with_name("manifest.json").read_text())["sizes"]["kv_bits"] == 8


def test_what_modelopt_says_in_a_file_of_its_own_is_read(model: Path, theirs: Path):
    config = json.loads((theirs / "config.json").read_text())
    del config["quantization_config"]
    (theirs / "config.json").write_text(json.dumps(config))
    said = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (theirs / "hf_quant_config.json").write_text(json.dumps(said))
    checkpoint = serve(model, bring(model, local(theirs)))
    sizes = json.loads(checkpoint.with_name("manifest.json").read_text())["sizes"]
    assert (sizes["activation_bits"], sizes["kv_bits"]) == (8, 8)
    assert read_engine(checkpoint)["kv_cache_dtype"] == "fp8"
    assert is_foreign(checkpoint) and not is_foreign(model)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"hidden_size": 128}, "its hidden_size is 128, the model's is 64: it was made of another model"),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "its num_hidden_layers is 3"),
        ({"vocab_size": 512}, "its vocab_size is 512"),
        ({"model_type": "qwen3"}, "its model_type is qwen3"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "its format is bitsandbytes, .*awq, .*, or a GGUF"),
        ({"quantization_config": {"quant_method": "fakequant"}}, "its format is fakequant"),
        ({"quantization_config": {"bits": 4}}, "its format is none that is named"),
        ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, "asks for code of the repository"),
    ],
)
def test_before_weights_are_fetched_another_model_or_format_is_refused(
    model: Path,
    theirs: Path,
    hub: Hub,  # noqa: F811
    kind: dict,
    message: str,
):
    change(theirs / "config.json", **kind)
    hub.repositories["models/owner/tiny-int4"] = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(UserError, match=message):
        bring(model, HUB)
    assert not [request for request in hub.requests if request.endswith(".safetensors")]


def test_of_a_repository_nothing_is_fetched_that_is_not_needed(
    model: Path,
    theirs: Path,
    hub: Hub,  # noqa: F811
):
    files = {path.name: path.read_bytes() for path in theirs.iterdir()}
    unwanted = ["pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "README.md"]
    hub.repositories["models/owner/tiny-int4"] = files | dict.fromkeys(unwanted, b"never fetched")
    folder = bring(model, HUB)
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not {path.name for path in folder.iterdir()} & set(unwanted)
    assert Source("models", "tiny.int4", "owner/tiny-int4", COMMIT).folder.is_dir()
    hub.repositories["models/owner/tiny-int4"] = {"config.json": b"{}", "pytorch_model.bin": b"never fetched"}
    shutil.rmtree("results/store")
    with pytest.raises(UserError, match=r"no config.json and safetensors among .*pytorch_model.bin.*pickled"):
        bring(model, HUB)


def test_another_vocabulary_is_refused(model: Path, theirs: Path):
    path = theirs / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    vocabulary = json.loads(text)["model"]["vocab"]
    (a, i), (b, j) = list(vocabulary.items())[5:7]
    changed = json.loads(text)
    changed["model"]["vocab"] |= {a: j, b: i}
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=rf"its token {min(i, j)} is .*, the model's is .*: it was made of another"):
        bring(model, local(theirs))


def test_what_else_differs_is_served_and_told(model: Path, theirs: Path, capsys: pytest.CaptureFixture):
    change(theirs / "config.json", rms_norm_eps=0.5, use_cache=False)
    bring(model, local(theirs))
    assert FACTS["differs_from_model"].keys() == {"rms_norm_eps"}
    assert "its rms_norm_eps is 0.5, the model's is" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["cut", "other"])
def test_damaged_or_foreign_weights_are_refused(model: Path, theirs: Path, kind: str):
    path = theirs / "model.safetensors"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"model.safetensors is cut or damaged"):
            bring(model, local(theirs))
    else:
        save_file({"transformer.h.0.weight": torch.zeros(4)}, path)
        with pytest.raises(UserError, match="no blocks of layers such as the model's"):
            bring(model, local(theirs))


NAMES = {
    "embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(path: Path, model: Path, drop: str = "", tokens: list[str] | None = None) -> Path:
    """The model as a GGUF, its linear layers in Q8_0."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_chat_template("{{ messages[0].content }}, in their way: ")
    writer.add_token_list(tokens or sorted(vocabulary, key=vocabulary.get))
    for name, tensor in load_file(model / "model.safetensors").items():
        parts = name.split(".")
        theirs = "output_norm" if name == "model.norm.weight" else NAMES[parts[-2]]
        block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        if drop != name:
            kind = gguf.GGMLQuantizationType.Q8_0 if "_proj.weight" in name else gguf.GGMLQuantizationType.F32
            packed = gguf.quantize(tensor.float().numpy(), kind)
            writer.add_tensor(f"{block}{theirs}.{parts[-1]}", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_is_dequantized_into_the_models_own_files(model: Path, tmp_path: Path):
    path = write_gguf(tmp_path / "tiny-q8.gguf", model)
    checkpoint = serve(model, bring(model, local(path)))
    before, after = (load_file(folder / "model.safetensors") for folder in (model, checkpoint))
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        if "_proj.weight" in name:
            blocks = before[name].float().unflatten(1, (-1, 32))
            step = blocks.abs().amax(-1, keepdim=True) / 127
            error = (tensor.float().unflatten(1, (-1, 32)) - blocks).abs()
            assert error.max() > 0 and (error <= 0.57 * step).all(), name  # the scale is stored in 16 bits
        else:
            assert torch.equal(tensor, before[name]), name
    sizes = json.loads(checkpoint.with_name("manifest.json").read_text())["sizes"]
    assert sizes["weight_bits"] == 8.5
    assert (FACTS["dequantized"], FACTS["replaced"]) == ("tiny-q8.gguf", ["chat_template"])
    assert (checkpoint / "tokenizer.json").samefile(model / "tokenizer.json")


def test_a_gguf_of_another_model_is_refused(model: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"q_proj.weight is missing, the model's has"):
        serve(model, bring(model, local(write_gguf(tmp_path / "a.gguf", model, drop=f"{LAYER}.weight"))))
    tokens = [f"token{i}" for i in range(len(AutoTokenizer.from_pretrained(model)))]
    with pytest.raises(UserError, match="its token 0 is 'token0'"):
        bring(model, local(write_gguf(tmp_path / "b.gguf", model, tokens=tokens)))
    (tmp_path / "c.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UserError, match=r"makes no model of it|cannot be read"):
        bring(model, local(tmp_path / "c.gguf"))


def test_what_a_model_file_says_of_them_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("config", "scripts", "resources"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "models.safetensors")
        )
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config/models/tiny-qwen-s.yaml"
    text = path.read_text()
    config = TINY_STUDY | {"studies": {"s": TINY_STUDY["studies"]["baselines"] | {"grid": [
        {"models": ["tiny-qwen-s"], "schemes": ["none/full", "published/int4"]}
    ]}}}  # fmt: skip

    def refused(at: str, message: str) -> None:
        path.write_text(f"published: {{int4: {json.dumps(at)}}}\n{text}")
        with pytest.raises(UserError, match=message):
            load(config, ["config/config.yaml"])

    refused("owner/name@main", r"tiny-qwen-s.yaml: published.int4: 'owner/name@main' is neither .* 40 digits")
    refused("owner/name", "all 40 digits of the commit")
    refused("folder", "begins with / or ./")
    refused(f"{tmp_path}/absent", r"published.int4: no checkpoint at .*/absent")
    refused(f"{tmp_path}/absent.gguf", r"published.int4: no checkpoint at .*/absent.gguf")
    path.write_text(text)
    with pytest.raises(UserError, match=r"config/models/tiny-qwen-s.yaml has no published.int4: add it there"):
        load(config, ["config/config.yaml"])
    path.write_text(f"published: {{int4: owner/name@{COMMIT}:a/b.gguf}}\n{text}")
    found = load(config, ["config/config.yaml"]).models["tiny-qwen-s"]["published"]
    assert found == {"int4": {"local": "", "repository": "owner/name", "revision": COMMIT, "file": "a/b.gguf"}}
