"""The trained tiny reasoners in memory, random models of odd shapes, and solved problems as the former know them."""

import math

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from scripts.fakequant.hadamard import hadamard_factors
from scripts.models import arithmetic
from scripts.questions._arithmetic import problems
from tests.conftest import ROOT

SHAPES = {
    # heads, kv heads, head_dim, hidden, intermediate
    "qwen2": (Qwen2Config, 14, 2, 64, 896, 4864),
    "qwen3": (Qwen3Config, 4, 2, 64, 128, 384),
    "llama": (LlamaConfig, 9, 3, 64, 576, 1536),
}


def hadamard_matrix(n: int) -> torch.Tensor:
    """The orthogonal matrix `(n, n)` of `hadamard_transform`, dense, in float64."""
    return torch.kron(*hadamard_factors(n)).double() / math.sqrt(n)


def trained(name: str) -> PreTrainedModel:
    recipe = arithmetic.RECIPES[name]
    model = arithmetic.build_model(recipe, arithmetic.build_tokenizer("slips" in recipe))
    arithmetic.restore(model, ROOT / "resources/models" / name, recipe)
    return model.eval()


def solved(count: int, *, evaluation: bool = False) -> list[list[int]]:
    """Token ids of the first problems of the middle tier, each with its solution."""
    stream, tokenizer = problems("multiplication", 5, evaluation=evaluation), arithmetic.build_tokenizer()
    chosen = [next(stream) for _ in range(count)]
    texts = [f"<|bos|><|user|>{p.question}<|assistant|><think>{p.solution}<|eos|>" for p in chosen]
    return tokenizer(texts, add_special_tokens=False).input_ids


def random_model(shape: str) -> PreTrainedModel:
    """One layer with weights and norms of no special form."""
    kind, heads, kv_heads, head_dim, hidden, intermediate = SHAPES[shape]
    torch.manual_seed(0)
    config = kind(
        vocab_size=128, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()
