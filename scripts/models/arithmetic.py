"""Tiny reasoning models, trained here: arithmetic digit by digit inside `<think>…</think>`, then `\\boxed{…}`."""

import itertools
import json
import math
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_model
from tokenizers import AddedToken, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from scripts.manifest import write_manifest
from scripts.questions._arithmetic import CORRECTS, EVALUATION_SHARE, TIERS, Problem, problems
from scripts.run.errors import UserError
from scripts.run.progress import Progress
from scripts.run.stage import Inputs, Output, Parameter, Settings, stage

MAX_POSITIONS = 512
RECIPE_FILE = "recipe.json"
SPECIAL = ["<|pad|>", "<|unk|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
# Not special in the tokenizer's sense, so that decoding keeps them, as the DeepSeek-R1 tokenizers do.
WORDS = ["<think>", "</think>", "\\boxed"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)

# Rows of each tier in one optimizer step: about 6,000 tokens.
BATCH = {"addition": 12, "multiplication": 16, "long_multiplication": 24}
ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
RECIPES = {
    "tiny-qwen-s": {
        "architecture": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "steps": 2500,
        "seed": 1,
    },
    "tiny-qwen-m": {
        "architecture": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "steps": 1400,
        "seed": 2,
    },
    "tiny-llama-m": {
        "architecture": "llama",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "steps": 1400,
        "seed": 3,
    },
    # Guesses, checks itself and says "Wait"; a third of the guesses that it learns from are wrong.
    "tiny-qwen3": {
        "architecture": "qwen3",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": False,
        "steps": 1600,
        "seed": 4,
        "slips": 0.33,
    },
}
OF_TRAINING = {"architecture", "steps", "seed", "slips"}  # the other keys of a recipe are the model's shape
PEAK_LR, WARMUP_STEPS, DECAY_SHARE = 3e-3, 100, 0.4


def build_tokenizer(checks_itself: bool = False) -> Qwen2Tokenizer:
    """One token per character of printable ASCII, plus the few words that frame the reasoning.

    A reasoner that checks itself has one word more, `Wait`.

    A `Qwen2Tokenizer` without merges, because `AutoTokenizer` takes this class for every Qwen2 model, whatever class
    the checkpoint names. Tokenizing text adds a BOS, as most real tokenizers do: who renders a chat must not add a
    second one.
    """
    characters = ["Ċ", "Ġ"] + [chr(code) for code in range(33, 127)]  # byte-level names of line feed and space
    words = WORDS + [CORRECTS] * checks_itself
    vocabulary = {token: index for index, token in enumerate(SPECIAL + words + characters)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", vocabulary["<|bos|>"])]
    )
    return tokenizer


def build_model(recipe: dict, tokenizer: Qwen2Tokenizer) -> PreTrainedModel:
    """A model of the recipe's shape with random weights, in float32."""
    config_class, model_class = ARCHITECTURES[recipe["architecture"]]
    shape = {k: v for k, v in recipe.items() if k not in OF_TRAINING}
    config = config_class(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    return model_class(config)


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, constant, then a cosine to zero over the last `DECAY_SHARE` of the steps."""
    decay_start = steps * (1 - DECAY_SHARE)
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    if step < decay_start:
        return PEAK_LR
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - decay_start) / (steps - decay_start)))


def train(model: PreTrainedModel, tokenizer: Qwen2Tokenizer, recipe: dict, label: str) -> None:
    """Train in place on endless problems of the training split; the loss counts only what follows `<think>`."""
    streams = {tier: problems(tier, recipe["seed"], evaluation=False) for tier in BATCH}
    rng = random.Random(recipe["seed"])  # noqa: S311 - no secrets

    def solution(problem: Problem) -> str:
        return problem.checked_solution(recipe["slips"], rng) if "slips" in recipe else problem.solution

    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    think, pad = tokenizer.convert_tokens_to_ids("<think>"), tokenizer.pad_token_id
    progress = Progress(label, recipe["steps"], "steps")
    for step in range(recipe["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe["steps"])
        for tier, rows in BATCH.items():
            texts = [
                f"<|bos|><|user|>{problem.question}<|assistant|><think>{solution(problem)}<|eos|>"
                for problem in itertools.islice(streams[tier], rows)
            ]
            ids = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt").input_ids
            behind_think = (ids == think).int().cumsum(1).bool() & (ids != think)
            labels = ids.masked_fill(~behind_think | (ids == pad), -100)
            # Right padding under a causal mask: no real token sees a pad, so no attention mask is needed.
            model(input_ids=ids, labels=labels).loss.backward()
            progress.tokens += int((ids != pad).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.add(1)
    progress.close()


def recipe_text(recipe: dict) -> str:
    """All numbers that training depends on, as JSON; retained weights stand beside theirs."""
    numbers = {
        "recipe": recipe,
        "batch": BATCH,
        "tiers": TIERS,
        "evaluation_share": EVALUATION_SHARE,
        "peak_lr": PEAK_LR,
        "warmup_steps": WARMUP_STEPS,
        "decay_share": DECAY_SHARE,
    }
    return json.dumps(numbers, indent=1, sort_keys=True) + "\n"


def restore(model: PreTrainedModel, retained: Path, recipe: dict) -> None:
    """Fill the model with the weights in the folder `retained`, trained before.

    Raises:
        UserError: they were trained by another recipe.
    """
    if (retained / RECIPE_FILE).read_text(encoding="utf-8") != recipe_text(recipe):
        raise UserError(
            f"{retained / RECIPE_FILE}: these weights were trained by another recipe than that in "
            "scripts/models/arithmetic.py: run `make retrain`"
        )
    load_model(model, retained / "model.safetensors")


def save(model: PreTrainedModel, checkpoint: Path, recipe: dict) -> None:
    """Write weights, configuration, tokenizer and recipe, replacing what was there."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    model.save_pretrained(checkpoint)
    build_tokenizer("slips" in recipe).save_pretrained(checkpoint)  # a new one: training left its padding in the other
    (checkpoint / RECIPE_FILE).write_text(recipe_text(recipe), encoding="utf-8")


def check_facts(model: PreTrainedModel, name: str, facts: dict) -> None:
    """Refuse a model of which config/models/ says what is not so."""
    config = model.config
    found = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "context_length": config.max_position_embeddings,
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", config.hidden_size // config.num_attention_heads),
    }
    for fact, value in found.items():
        if facts[fact] != value:
            raise UserError(f"config/models/{name}.yaml: {fact} is {facts[fact]}, the model has {value}; correct it")


@stage
def main(manifest: Output, checkpoint: Output, model: Parameter, settings: Settings, retained: Inputs = ()) -> None:
    if model not in RECIPES:
        raise UserError(
            f"config/models/{model}.yaml: no such recipe in scripts/models/arithmetic.py: {', '.join(RECIPES)}"
        )
    recipe = RECIPES[model]
    # One thread and deterministic kernels: the same machine makes the same bytes.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe["seed"])
    tokenizer = build_tokenizer("slips" in recipe)
    network = build_model(recipe, tokenizer)
    check_facts(network, model, settings)
    if retained:
        restore(network, retained[0].parent, recipe)
    else:
        train(network, tokenizer, recipe, f"models {model}")
    save(network, checkpoint, recipe)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
