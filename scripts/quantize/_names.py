"""Which weights of a checkpoint are quantized, by their names."""

import math
import re
from pathlib import Path

from safetensors import safe_open

from scripts.run.errors import UserError

# Only the decoder blocks' linear layers are quantized: not embeddings, norms, lm_head or biases.
LINEAR_WEIGHT = re.compile(r"model\.layers\.(\d+)\.((?:self_attn|mlp)\.[a-z]+_proj)\.weight")
OF_A_BLOCK = re.compile(r"(?:.*\.)?layers\.\d+\..*")


def check_linears(model: Path) -> None:
    """Refuse a model of whose decoder blocks a matrix would stay in full precision, without a word.

    Raises:
        UserError: names the first such tensor, or says that there are none to quantize.
    """
    shapes = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    matrices = [
        name for name, shape in shapes.items()
        if len(shape) > 1 and min(shape) > 1 and OF_A_BLOCK.fullmatch(name)
    ]  # fmt: skip
    left = sorted(name for name in matrices if not LINEAR_WEIGHT.fullmatch(name))
    if left or not matrices:
        share = sum(math.prod(shapes[name]) for name in left) / max(
            1, sum(math.prod(shapes[name]) for name in matrices)
        )
        what = f"{left[0]} (and {share:.0%} of the blocks' weights in all)" if left else "every weight"
        raise UserError(
            f"{model}: {what} would not be quantized: known are model.layers.N.self_attn and .mlp with q, k, v, o, "
            "gate, up and down_proj, as Qwen2, Qwen3 and Llama have them, not fused layers or experts; leave this out"
        )
