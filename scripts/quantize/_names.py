"""Which weights of a checkpoint are quantized, by their names."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from scripts.architectures import EXPERTS
from scripts.run.errors import UserError

# Only the decoder blocks' linear layers and experts are quantized: not embeddings, norms, lm_head or biases. The groups
# are the layer, and the path of its module in the block.
LINEAR_WEIGHT = re.compile(
    r"model\.layers\.(\d+)\.((?:self_attn|linear_attn|mlp)\.(?:experts\.(?:\d+\.)?|shared_experts?\.)?"
    r"(?:[a-z]+_)*proj(?:_qkvz)?)(?:\.weight)?"
)
OF_A_BLOCK = re.compile(r"(?:.*\.)?layers\.\d+\..*")
# What decides more than it weighs and stays in full precision: routers, and what gates linear attention.
LEFT = re.compile(
    r"model\.layers\.\d+\.(?:mlp\.(?:gate|router|shared_expert_gate)|linear_attn\.(?:conv1d|in_proj_ba))\.weight"
)
MOST_LEFT = 0.05  # of the blocks' weights: what weighs more and has such a name is something else


def last_part(name: str) -> str:
    """Of the name of a linear layer's weight that of the layer in its module, such as `down_proj`."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def each_matrix(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor as it is, such as a linear weight `(out_features, in_features)`, or each of the experts stored as one.

    Those are `(experts, in_features, out_features)` in gpt-oss; the name of each is as if it were stored alone.
    """
    if weight.dim() < 3:
        yield name, weight
        return
    experts, leaf = name.rsplit(".", 1)
    for index, expert in enumerate(weight):
        yield f"{experts}.{index}.{leaf}.weight", expert.T


def has_experts(folder: Path) -> bool:
    """Whether a model or a checkpoint of it has experts, by its config.json."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") in EXPERTS


def check_linears(model: Path) -> None:
    """Refuse a model of whose decoder blocks a matrix would stay in full precision, without a word.

    What stays so on purpose (`LEFT`) is told.

    Raises:
        UserError: names the first such tensor, or says that there are none to quantize.
    """
    shapes = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    matrices = {
        name: math.prod(shape) for name, shape in shapes.items()
        if len(shape) > 1 and min(shape) > 1 and OF_A_BLOCK.fullmatch(name) and not name.endswith("bias")
    }  # fmt: skip
    left = [name for name in matrices if LEFT.fullmatch(name)]
    share = sum(matrices[name] for name in left) / max(1, sum(matrices.values()))
    known = [name for name in matrices if LINEAR_WEIGHT.fullmatch(name)] + (left if share <= MOST_LEFT else [])
    unknown = sorted(matrices.keys() - known)
    if unknown or not matrices:
        passed = sum(matrices[name] for name in unknown) / max(1, sum(matrices.values()))
        what = f"{unknown[0]} (and {passed:.0%} of the blocks' weights in all)" if unknown else "every weight"
        raise UserError(
            f"{model}: {what} would not be quantized: known are the layers *_proj of model.layers.N.self_attn, "
            "linear_attn and mlp, and of experts in mlp; leave this out"
        )
    if left:
        names = ", ".join(sorted({name.split(".", 3)[-1] for name in left}))
        print(f"quantize: in full precision stay {names}, {share:.2%} of the blocks' weights", flush=True)
