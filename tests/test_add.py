"""One command adds a model: what it finds, what it fetches for that, what it keeps, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from scripts.generate.prompts import build_requests
from scripts.models import arithmetic
from scripts.models.add import add
from scripts.run import record
from scripts.run.config import Config
from scripts.run.errors import UserError
from scripts.run.read import read_models
from tests.conftest import ROOT
from tests.hub import COMMIT, Hub
from tests.test_fetch import hub  # noqa: F401 (a fixture)
from tests.test_from_hub import bring, tiny  # noqa: F401 (a fixture)

SHAPE = read_models()["tiny-qwen-s"]
FACTS = ("dtype", "context_length", "parameters", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in a folder, beside a repository without models, in which the test works."""
    monkeypatch.setattr(record, "add_facts", lambda **_: None)
    root = tmp_path / "repository"
    (root / "config").mkdir(parents=True)
    (root / "scripts").symlink_to(ROOT / "scripts")
    (root / "config/schemas").symlink_to(ROOT / "config/schemas")
    monkeypatch.chdir(root)
    tokenizer = arithmetic.build_tokenizer()
    arithmetic.build_model(arithmetic.RECIPES["tiny-qwen-s"], tokenizer).save_pretrained(tmp_path / "Mine")
    tokenizer.save_pretrained(tmp_path / "Mine")
    return tmp_path / "Mine"


def written(name: str) -> dict:
    return yaml.safe_load(Path(f"config/models/{name}.yaml").read_text(encoding="utf-8"))


def change_weights(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}, path)


def change_template(folder: Path, before: str, after: str) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_a_folder_is_its_own_revision(folder: Path, tmp_path: Path):
    """What is written is enough to bring the model, until its content is another."""
    assert "config/models/mine.yaml" in add(str(folder), None)
    (found,) = read_models().values()
    assert {name: found[name] for name in FACTS} == {name: SHAPE[name] for name in FACTS}
    assert (found["source"], found["local"], found["key_bias"]) == ("hub", str(folder), "small")
    asked = {name: found[name] for name in ("repository", "local", "revision")}
    assert "model.safetensors" in bring(tmp_path, **asked)
    bias = load_file(folder / "model.safetensors")["model.layers.0.self_attn.k_proj.bias"]
    change_weights(folder, model__layers__0__self_attn__k_proj__bias=bias + 101)
    with pytest.raises(UserError, match=r"no longer .* config/models/tiny.yaml.*`python -m scripts.models.add .*Mine"):
        bring(tmp_path, **asked)
    path = Path("config/models/mine.yaml")
    path.write_text("# Ours.\norigin: distilled  # by us\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    add(str(folder), None)
    (again,) = read_models().values()
    assert (again["origin"], again["key_bias"]) == ("distilled", "large")
    assert again["revision"] != found["revision"]
    assert path.read_text(encoding="utf-8").startswith("# Ours.\norigin: distilled  # by us\n")
    assert "model.safetensors" in bring(tmp_path, **asked | {"revision": again["revision"], "key_bias": "large"})


def test_of_a_repository_only_headers_and_small_files_are_read(
    folder: Path,
    hub: Hub,  # noqa: F811
    tiny: dict[str, bytes],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(folder.parent / "repository")  # the hub's fixture works elsewhere
    hub.repositories["models/owner/Tiny-1B"] = dict(tiny)
    add("owner/Tiny-1B", None)
    (found,) = read_models().values()
    assert {name: found[name] for name in FACTS} == {name: SHAPE[name] for name in FACTS}
    assert (found["repository"], found["revision"], found["local"]) == ("owner/Tiny-1B", COMMIT, "")
    weights = [name for name in tiny if name.startswith("model") and name.endswith(".safetensors")]
    small = sum(len(tiny[name]) for name in tiny if name not in weights)
    assert hub.bytes_served < small + 0.1 * sum(len(tiny[name]) for name in weights)
    assert not list(Path("results").rglob("model*.safetensors"))
    add(f"owner/Tiny-1B@{COMMIT}", "another")
    assert written("another") == written("tiny-1b")
    hub.whole = True
    monkeypatch.setattr("scripts.hub.WAITS", [0])
    with pytest.raises(UserError, match=r"no connection"):
        add("owner/Tiny-1B", "third")
    assert not Path("config/models/third.yaml").exists()


def test_a_head_that_is_tied_and_stored_counts_once(folder: Path):
    weights = load_file(folder / "model.safetensors")
    change_weights(folder, lm_head__weight=weights["model.embed_tokens.weight"].clone())
    add(str(folder), None)
    assert written("mine")["facts"]["parameters"] == SHAPE["parameters"]


def test_sampling_that_the_authors_recommend_can_be_a_suites(folder: Path):
    add(str(folder), None)
    assert "sampling" not in written("mine")["facts"]
    stated = {"do_sample": True, "temperature": 0.6, "top_k": 20, "min_p": 0.05}
    (folder / "generation_config.json").write_text(json.dumps(stated), encoding="utf-8")
    add(str(folder), None)
    recommended = {"temperature": 0.6, "top_p": 1.0, "top_k": 20, "min_p": 0.05}
    assert written("mine")["facts"]["sampling"] == recommended
    stated = {"benchmarks": ["addition"], "seeds": [42], "max_model_len": 256, "paper_seeds": False}
    suites = {"theirs": stated | {"sampling": "recommended"}, "ours": stated | {"temperature": 0.3, "top_p": 0.9}}
    config = Config({}, suites, {}, read_models(), {}, {}, False, False, False, 80, {})
    theirs, ours = config.asking("theirs", "mine"), config.asking("ours", "mine")
    assert {name: theirs[name] for name in recommended} == recommended
    assert [ours[name] for name in recommended] == [0.3, 0.9, 0, 0]
    tokenizer = arithmetic.build_tokenizer()
    question = {"benchmark": "b", "id": "1", "messages": [{"role": "user", "content": "1+1"}], "expected_tokens": 1}
    for settings, min_p in ((theirs, 0.05), (ours, None)):
        (request,) = build_requests([question], tokenizer, settings, {}, {})
        assert request.sampling.get("min_p") == min_p


def test_what_opens_and_marks_the_thought_is_found_in_the_template(folder: Path):
    add(str(folder), "plain")
    assert written("plain").keys() == {"folder", "facts"}
    change_template(folder, "<think>", "{% if enable_thinking %}[THINK]{% else %}[THINK][/THINK]{% endif %}")
    add(str(folder), "marked")
    found = written("marked")
    assert (found["think"], found["template"]) == ("[THINK] [/THINK]", {"enable_thinking": True})


def test_a_template_that_writes_the_day_is_taken_with_a_date(folder: Path):
    change_template(folder, "<|assistant|><think>", "Today: {{ strftime_now('%Y-%m-%d') }}<|assistant|><think>")
    with pytest.raises(UserError, match=r"the day into the prompt.* state a `date`"):
        add(str(folder), None)
    Path("config/models").mkdir(exist_ok=True)
    facts = yaml.safe_dump({"facts": yaml.safe_load((ROOT / "config/models/tiny-qwen-s.yaml").read_text())["facts"]})
    text = f"folder: {folder}\ndate: 2026-01-31\n{facts.replace(repr('1'), 'a' * 64)}"
    Path("config/models/mine.yaml").write_text(text, encoding="utf-8")
    add(str(folder), None)
    assert written("mine")["facts"]["revision"] != "a" * 64


def test_what_is_no_model_is_refused_and_nothing_written(folder: Path):
    config = folder / "config.json"
    whole = config.read_text(encoding="utf-8")
    cases = [
        (json.loads(whole) | {"auto_map": {"AutoModel": "code.Mine"}}, "auto_map"),
        (json.loads(whole) | {"quantization_config": {"quant_method": "awq"}}, "quantized already"),
        ({"architectures": ["Mine"]}, "dtype"),
    ]
    for stated, words in cases:
        config.write_text(json.dumps(stated), encoding="utf-8")
        with pytest.raises(UserError, match=words):
            add(str(folder), None)
    config.write_text(whole, encoding="utf-8")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    wrong = content.replace(b'"F32","shape":[64]', b'"F32","shape":[65]', 1)
    assert wrong != content
    for damaged in (b"", content[:20], b"\xff" * 64, (8).to_bytes(8, "little") + b"[1,2,3] ", wrong):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model.safetensors does not begin as safetensors do"):
            add(str(folder), None)
    weights.write_bytes(content[: 8 + int.from_bytes(content[:8], "little")])
    with pytest.raises(UserError, match=r"model.safetensors is cut"):
        add(str(folder), None)
    weights.write_bytes(content)
    for asked, name, words in [
        ("nowhere", None, "neither a folder here nor"),
        ("../../etc", None, "neither a folder here nor"),
        (str(folder), "Mine!", "lower-case"),
        (str(folder), "../mine", "lower-case"),
    ]:
        with pytest.raises(UserError, match=words):
            add(asked, name)
    assert not Path("config/models").exists()


def test_a_choice_behind_the_facts_is_not_lost(folder: Path):
    add(str(folder), None)
    path = Path("config/models/mine.yaml")
    path.write_text(f"{path.read_text(encoding='utf-8')}origin: distilled\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.yaml: origin stands behind facts.* move it before"):
        add(str(folder), None)
    assert written("mine")["origin"] == "distilled"


def test_a_name_that_is_taken_is_not_written_over(folder: Path):
    add(str(folder), None)
    before = Path("config/models/mine.yaml").read_bytes()
    other = folder.rename(folder.with_name("Other"))
    with pytest.raises(UserError, match=r"config/models/mine.yaml: it is another model's .*--name"):
        add(str(other), "mine")
    assert Path("config/models/mine.yaml").read_bytes() == before
