"""QuaRot: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (arXiv 2404.00456), section 4.

Without weight bits only queries and keys are rotated, online (stage 2c). With them the norms are fused and the
residual stream is rotated (stage 1a), values and the attention's output by head (1c and 1d, as the study does it: no
transform across heads), the input of `down_proj` online (1b); then GPTQ.
"""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.hadamard import hadamard_by_part, hadamard_matrix
from scripts.fakequant.reference import attach
from scripts.fakequant.settings import write_settings
from scripts.manifest import write_manifest
from scripts.quantize._layers import linears, quantize_layers
from scripts.quantize._link import link_checkpoint
from scripts.quantize._rewrite import save_model
from scripts.quantize._store import stored
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows


def random_hadamard(size: int, seed: int) -> torch.Tensor:
    """A Hadamard matrix whose rows have random signs, orthogonal, `(size, size)`, in float64."""
    signs = torch.randint(0, 2, (size, 1), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    return signs * hadamard_matrix(size)


def set_weight(module: nn.Module, weight: torch.Tensor) -> None:
    module.weight.data = weight.to(module.weight.dtype)


def fuse_norm(norm: nn.Module, following: list[nn.Linear]) -> None:
    """Move the norm's weight into the linear layers behind it (stage 1a)."""
    for linear in following:
        set_weight(linear, linear.weight.double() * norm.weight.double())
    set_weight(norm, torch.ones_like(norm.weight))


@torch.no_grad()
def rotate(model: PreTrainedModel, seed: int, row_groups: int) -> None:
    """Rotate in place; with the online transform of `down_proj`'s input the model computes what it did.

    Rotations act from the right: a row vector x of the residual stream becomes x Q.
    """
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotation = random_hadamard(config.hidden_size, seed)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if config.tie_word_embeddings:
        # The final norm goes into the head alone: the two are no longer one.
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        config.tie_word_embeddings = False
    fuse_norm(model.model.norm, [head])
    set_weight(embedding, embedding.weight.double() @ rotation)
    set_weight(head, head.weight.double() @ rotation)
    for layer in model.model.layers:
        modules = linears(layer)
        attention_in = [modules[name] for name in ("q_proj", "k_proj", "v_proj")]
        mlp_in = [modules[name] for name in ("gate_proj", "up_proj")]
        fuse_norm(layer.input_layernorm, attention_in)
        fuse_norm(layer.post_attention_layernorm, mlp_in)
        for linear in attention_in + mlp_in:
            set_weight(linear, linear.weight.double() @ rotation)
        for linear in (modules["o_proj"], modules["down_proj"]):
            set_weight(linear, rotation.T @ linear.weight.double())
            if linear.bias is not None:
                linear.bias.data = (linear.bias.double() @ rotation).to(linear.bias.dtype)
        # Values by head, undone by the layer that reads them; and the online transform's inverse.
        value, output, down = modules["v_proj"], modules["o_proj"], modules["down_proj"]
        set_weight(value, hadamard_by_part(value.weight.double().T, head_dim).T)
        if value.bias is not None:
            value.bias.data = hadamard_by_part(value.bias.double(), head_dim).to(value.bias.dtype)
        set_weight(output, hadamard_by_part(output.weight.double(), head_dim))
        set_weight(down, hadamard_by_part(down.weight.double(), down.in_features // row_groups))


@stage
@stored
def main(model: Input, checkpoint: Output, manifest: Output, settings: Settings, calibration: Inputs = ()) -> None:
    cache = {"bits": settings["kv_bits"], "clip": settings["kv_clip"]}
    served = {"keys": cache | {"hadamard": True}, "values": cache}
    if "bits" in settings:
        row_groups = settings["row_groups"]
        sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
        network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        rotate(network, settings["seed"], row_groups)
        online = {"row_groups": row_groups, "hadamard": ["down_proj"]}
        attach(network, online, {})
        quantize_layers(network, sequences, settings["bits"], row_groups, f"{manifest.parent}: GPTQ")
        save_model(network, model, checkpoint)
        clip = settings["activation_clip"]
        served |= online | {"activations": {"bits": settings["activation_bits"], "symmetric": False, "clip": clip}}
    else:
        link_checkpoint(model, checkpoint)
    write_settings(checkpoint, served)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
