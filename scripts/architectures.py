"""Which models our quantizers know, by `model_type` of config.json."""

from typing import Any

from scripts.run.errors import UserError

OTHERS = ("none", "published", "vllm")  # which change no weights here, and take what vLLM serves
WEIGHTS = ("rtn", "gptq")  # where they round weights alone, need no more than linear layers of known names
# The rest change norms, or round inputs, keys and values, and know where these stand in such models.
KNOWN = ("qwen2", "qwen3", "llama")
# Linear layers of other names than q, k, v, o, gate, up and down_proj: fused, or experts.
OTHERWISE_NAMED = ("phi3", "glm", "glm4", "glm4_moe", "qwen3_moe", "qwen3_next", "qwen3_5", "gpt_oss", "deepseek_v3")


def check_architecture(quantizer: str, settings: dict[str, Any], architecture: str) -> None:
    """Refuse a scheme that does not know such a model.

    Raises:
        UserError: says what would do; the caller adds where that stands.
    """
    if quantizer in OTHERS or architecture in KNOWN:
        return
    if architecture in OTHERWISE_NAMED:
        raise UserError(
            f"would round a {architecture} model, whose fused layers or experts no quantizer of ours knows: take "
            "published/NAME, or vllm/NAME"
        )
    if quantizer not in WEIGHTS or settings.keys() & {"activation_bits", "kv_bits"}:
        raise UserError(
            f"knows the norms and the attention of {', '.join(KNOWN)}, not of {architecture}: take "
            f"{' or '.join(WEIGHTS)} for weights alone, or published/NAME or vllm/NAME"
        )
