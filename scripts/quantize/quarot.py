"""QuaRot: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (arXiv 2404.00456), section 4.

Without weight bits only queries and keys are rotated, online (stage 2c). With them the norms are fused and the
residual stream is rotated (stage 1a), values and the attention's output by head (1c and 1d, as the study does it: no
transform across heads), the input of `down_proj` online (1b); then GPTQ.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.hadamard import Factors, hadamard_factors, hadamard_transform
from scripts.fakequant.reference import attach
from scripts.fakequant.settings import write_settings
from scripts.quantize._chunks import row_chunks
from scripts.quantize._layers import linears, quantize_layers, sequence
from scripts.quantize._link import link_checkpoint
from scripts.quantize._rewrite import save_model
from scripts.quantize._store import stored
from scripts.quantize._written import finish, uniform
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows

# What is fused and rotated, beside the weights that are rounded.
FUSED = {"input_layernorm.weight", "post_attention_layernorm.weight", "norm.weight", "embed_tokens.weight"}
FUSED |= {"lm_head.weight", "v_proj.bias", "o_proj.bias", "down_proj.bias"}


def random_signs(size: int, seed: int) -> torch.Tensor:
    """Of the rows of the Hadamard matrix that rotates the residual stream, `(size,)`, in float64."""
    return torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def transform_rows(weight: torch.Tensor, factors: Factors, signs: torch.Tensor | None = None) -> None:
    """Multiply `(rows, channels)` from the right by diag(signs) and the Hadamard matrix, in place.

    In float64, some rows at a time; a view of the transposed weight is multiplied from the left so.
    """
    for rows in row_chunks(weight):
        x = rows.double()
        rows.copy_(hadamard_transform(x if signs is None else x * signs, factors))


def fuse_norm(norm: nn.Module, following: list[nn.Linear]) -> None:
    """Move the norm's weight into the linear layers behind it (stage 1a)."""
    for linear in following:
        for rows in row_chunks(linear.weight):
            rows.copy_(rows.double() * norm.weight.double())
    norm.weight.fill_(1)


def own(module: nn.Module) -> None:
    """Memory of its own for each parameter: one of a mapped file, changed in place, keeps the file's as well."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


@torch.no_grad()
def rotate(model: PreTrainedModel, seed: int, row_groups: int) -> None:
    """Rotate in place; with the online transform of `down_proj`'s input the model computes what it did.

    Rotations act from the right: a row vector x of the residual stream becomes x Q, with Q = diag(signs) H. Each
    layer is rotated on the GPU if there is one.
    """
    config = model.config
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if config.tie_word_embeddings:
        # The final norm goes into the head alone: the two are no longer one.
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        config.tie_word_embeddings = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    signs, factors = random_signs(config.hidden_size, seed), hadamard_factors(config.hidden_size)
    own(embedding)
    own(head)
    fuse_norm(model.model.norm, [head])
    for linear in (embedding, head):
        transform_rows(linear.weight, factors, signs)
    with device:
        for layer in model.model.layers:
            own(layer)
            rotate_layer(layer.to(device), signs.to(device), row_groups)
            layer.to("cpu")


@torch.no_grad()
def rotate_layer(layer: nn.Module, signs: torch.Tensor, row_groups: int) -> None:
    """Rotate one decoder layer in place, on the default device."""
    modules, (attention, _, feed, _) = linears(layer), sequence(layer)
    residual, head = hadamard_factors(len(signs)), hadamard_factors(layer.self_attn.head_dim)
    for norm, names in (("input_layernorm", attention), ("post_attention_layernorm", feed)):
        following = [modules[name] for name in names]
        fuse_norm(getattr(layer, norm), following)
        for linear in following:
            transform_rows(linear.weight, residual, signs)
    for linear in (modules["o_proj"], modules["down_proj"]):
        transform_rows(linear.weight.T, residual, signs)
        if linear.bias is not None:
            transform_rows(linear.bias[None], residual, signs)
    # Values by head, undone by the layer that reads them; and the online transform's inverse.
    value, output, down = modules["v_proj"], modules["o_proj"], modules["down_proj"]
    transform_rows(value.weight.T, head)
    if value.bias is not None:
        transform_rows(value.bias[None], head)
    transform_rows(output.weight, head)
    transform_rows(down.weight, hadamard_factors(down.in_features // row_groups))


def served_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to rotate and round."""
    cache = {"bits": settings["kv_bits"], "clip": settings["kv_clip"]}
    served = {"keys": cache | {"hadamard": True}, "values": cache}
    if "bits" in settings:
        clip = settings["activation_clip"]
        served |= {"row_groups": settings["row_groups"], "hadamard": ["down_proj"]}
        served |= {"activations": {"bits": settings["activation_bits"], "symmetric": False, "clip": clip}}
    return served


@stage
@stored
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings, calibration: Inputs = ()) -> None:
    served = served_settings(settings)
    if "bits" in settings:
        row_groups = settings["row_groups"]
        sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
        network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        rotate(network, settings["seed"], row_groups)
        attach(network, {name: served[name] for name in ("row_groups", "hadamard")}, {})
        quantize_layers(network, sequences, settings["bits"], row_groups, f"{manifest.parent}: GPTQ")
        save_model(network, model, checkpoint)
    else:
        link_checkpoint(model, checkpoint)
    write_settings(checkpoint, served)
    if "bits" in settings:
        finish(model, checkpoint, manifest, uniform(settings), FUSED)
    else:
        finish(model, checkpoint, manifest, None)


if __name__ == "__main__":
    main()
