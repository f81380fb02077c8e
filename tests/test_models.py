"""The tiny reasoners: tokenizer, chat template, deterministic training, retained weights."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from scripts.manifest import write_manifest
from scripts.models import arithmetic
from scripts.questions._arithmetic import Problem, problems
from scripts.run.errors import UserError
from scripts.run.read import read_models
from tests.conftest import ROOT
from tests.tiny import trained

PRINTABLE = "".join(chr(code) for code in range(32, 127)) + "\n what's  left\n\n"


@pytest.mark.parametrize("name", arithmetic.RECIPES)
def test_a_saved_tokenizer_loads_as_it_was(name: str, tmp_path: Path):
    tokenizer = arithmetic.build_tokenizer("slips" in arithmetic.RECIPES[name])
    arithmetic.build_model(arithmetic.RECIPES[name], tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(PRINTABLE, add_special_tokens=False).input_ids
    assert len(ids) == len(PRINTABLE)
    assert tokenizer.unk_token_id not in ids
    assert loaded(PRINTABLE, add_special_tokens=False).input_ids == ids
    assert loaded.decode(ids) == PRINTABLE


def test_the_template_opens_the_thought_as_in_training():
    tokenizer = arithmetic.build_tokenizer()
    problem = Problem(47, "*", 86)
    chat = [{"role": "user", "content": problem.question}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == f"<|bos|><|user|>{problem.question}<|assistant|><think>"
    # skip_special_tokens keeps the frame of the thought: it is no special token.
    ids = tokenizer(problem.solution, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == problem.solution


def test_who_checks_itself_waits_in_one_token_and_means_it():
    """What it was trained for: of its own answers some hold a wrong guess, `Wait` and what is right."""
    tokenizer = arithmetic.build_tokenizer(True)
    assert tokenizer("\nWait,4", add_special_tokens=False).input_ids[1:] == tokenizer.convert_tokens_to_ids(
        ["Wait", ",", "4"]
    )
    model = trained("tiny-qwen3")
    chosen = list(itertools.islice(problems("multiplication", 1, evaluation=True), 48))
    prompts = [f"<|bos|><|user|>{problem.question}<|assistant|><think>" for problem in chosen]
    tokenizer.padding_side = "left"
    encoded = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    with torch.no_grad():
        ids = model.generate(**encoded, max_new_tokens=160, do_sample=True, temperature=0.6, top_p=0.95, top_k=0)
    answers = [text.split("<think>")[1] for text in tokenizer.batch_decode(ids)]
    right = [f"\\boxed{{{problem.gold}}}" in answer for problem, answer in zip(chosen, answers, strict=True)]
    waited = ["Wait" in answer for answer in answers]
    assert sum(right) >= 40
    assert 6 <= sum(waited) <= 40
    assert sum(r for r, w in zip(right, waited, strict=True) if w) >= 0.7 * sum(waited)


def test_training_is_deterministic_and_learns(tmp_path: Path):
    def weights() -> dict[str, torch.Tensor]:
        recipe = arithmetic.RECIPES["tiny-qwen-s"] | {"steps": 3}
        torch.manual_seed(recipe["seed"])
        tokenizer = arithmetic.build_tokenizer()
        model = arithmetic.build_model(recipe, tokenizer)
        arithmetic.train(model, tokenizer, recipe, "test")
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = weights(), weights()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_counts_only_the_answer():
    """A model that predicts the answer and nothing of the question has no loss: shown by a gradient of zero."""
    tokenizer = arithmetic.build_tokenizer()
    recipe = arithmetic.RECIPES["tiny-qwen-s"] | {"steps": 1}
    model = arithmetic.build_model(recipe, tokenizer)
    seen = []
    model.register_forward_pre_hook(lambda *call: seen.append(call[2]["labels"]), with_kwargs=True)
    arithmetic.train(model, tokenizer, recipe, "test")
    labels = torch.cat([batch.flatten() for batch in seen])
    counted = set(tokenizer.convert_ids_to_tokens(labels[labels != -100].unique().tolist()))
    assert "<|eos|>" in counted
    assert "</think>" in counted
    assert not counted & {"<|user|>", "<|assistant|>", "<|bos|>", "<|pad|>", "<think>", "W", "?"}


@pytest.mark.parametrize("name", arithmetic.RECIPES)
def test_retained_weights_are_of_this_recipe_and_small(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    tokenizer = arithmetic.build_tokenizer("slips" in arithmetic.RECIPES[name])
    model = arithmetic.build_model(arithmetic.RECIPES[name], tokenizer)
    arithmetic.check_facts(model, name, read_models()[name])
    arithmetic.restore(model, Path("resources/models", name), arithmetic.RECIPES[name])
    assert model.num_parameters() < 2_000_000
    assert sum(path.stat().st_size for path in Path("resources/models").rglob("*.safetensors")) <= 12_000_000


def test_restoring_gives_the_bytes_that_training_gave(tmp_path: Path):
    recipe = arithmetic.RECIPES["tiny-qwen-s"] | {"steps": 2}
    tokenizer = arithmetic.build_tokenizer()
    trained = arithmetic.build_model(recipe, tokenizer)
    arithmetic.train(trained, tokenizer, recipe, "test")
    arithmetic.save(trained, tmp_path / "trained", recipe)
    restored = arithmetic.build_model(recipe, arithmetic.build_tokenizer())
    arithmetic.restore(restored, tmp_path / "trained", recipe)
    arithmetic.save(restored, tmp_path / "restored", recipe)
    names = sorted(path.name for path in (tmp_path / "trained").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "restored").iterdir())
    for name in names:
        assert (tmp_path / "trained" / name).read_bytes() == (tmp_path / "restored" / name).read_bytes(), name


def test_weights_of_another_recipe_are_refused():
    recipe = arithmetic.RECIPES["tiny-qwen-s"] | {"steps": 1}
    model = arithmetic.build_model(recipe, arithmetic.build_tokenizer())
    with pytest.raises(UserError, match=r"tiny-qwen-s/recipe.json: .*make retrain"):
        arithmetic.restore(model, ROOT / "resources/models/tiny-qwen-s", recipe)


def test_a_wrong_fact_is_refused():
    model = arithmetic.build_model(arithmetic.RECIPES["tiny-qwen-s"], arithmetic.build_tokenizer())
    facts = read_models()["tiny-qwen-s"] | {"parameters": 1}
    with pytest.raises(UserError, match=r"models/tiny-qwen-s.yaml: parameters is 1, the model has 204416"):
        arithmetic.check_facts(model, "tiny-qwen-s", facts)


def test_a_manifest_says_what_is_there_and_nothing_else(tmp_path: Path):
    texts = []
    for name in ("one", "two"):
        folder = tmp_path / name / "checkpoint"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/b").write_text("b")
        (folder / "a").write_text("a")
        write_manifest(folder, folder.with_name("manifest.json"))
        texts.append(folder.with_name("manifest.json").read_text())
    assert texts[0] == texts[1]
    assert texts[0].index('"a"') < texts[0].index('"sub/b"')
