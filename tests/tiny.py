"""The trained tiny reasoners in memory, and solved problems as they were trained on."""

from transformers import PreTrainedModel

from scripts.models import arithmetic
from scripts.questions._arithmetic import problems
from tests.conftest import ROOT


def trained(name: str) -> PreTrainedModel:
    recipe = arithmetic.RECIPES[name]
    model = arithmetic.build_model(recipe, arithmetic.build_tokenizer())
    arithmetic.restore(model, ROOT / "resources/models" / name, recipe)
    return model.eval()


def solved(count: int, *, evaluation: bool = False) -> list[list[int]]:
    """Token ids of the first problems of the middle tier, each with its solution."""
    stream, tokenizer = problems("multiplication", 5, evaluation=evaluation), arithmetic.build_tokenizer()
    chosen = [next(stream) for _ in range(count)]
    texts = [f"<|bos|><|user|>{p.question}<|assistant|><think>{p.solution}<|eos|>" for p in chosen]
    return tokenizer(texts, add_special_tokens=False).input_ids
