"""Which of our quantizers know a model, by `model_type` of config.json."""

from typing import Any

from scripts.run.errors import UserError

OTHERS = ("none", "published", "vllm")  # which change no weights here, and take what vLLM serves
WEIGHTS = ("rtn", "gptq")  # where they round weights alone, need no more than linear layers of known names
PLAIN = ("qwen2", "qwen3", "llama", "mistral", "granite", "smollm3")  # which every quantizer knows
EXPERTS = ("qwen3_moe", "qwen3_next", "gpt_oss", "glm4_moe")
KNOWN: dict[str, tuple[str, ...]] = {  # others, and the quantizers that know them
    "phi3": ("rtn", "gptq", "awq", "smoothquant", "mxfp4"),  # queries, keys and values are made by one layer
    "glm4": ("rtn", "gptq", "awq", "smoothquant", "mxfp4", "kvquant"),  # norms behind attention stop a rotation
    # Norms stand elsewhere, or multiply by one more than their weights.
    "olmo3": ("rtn", "gptq", "awq", "mxfp4"),
    "gemma3_text": ("rtn", "gptq", "awq", "mxfp4"),
    "qwen3_moe": ("rtn", "gptq", "awq", "kvquant"),
    "qwen3_next": ("rtn", "gptq", "awq"),
    "gpt_oss": ("rtn", "gptq", "awq"),
    "glm4_moe": ("rtn", "awq"),  # GPTQModel's own form of its router does not run with this transformers
}
ROUNDED_ONLINE = (*PLAIN, "phi3", "glm4", "olmo3", "gemma3_text", "qwen3_moe")  # their inputs or cache
# Parts that no quantizer of ours knows: latent attention, or a text model within another.
UNKNOWN = ("deepseek_v2", "deepseek_v3", "gemma3", "mistral3", "llama4", "qwen3_5", "qwen3_5_moe")


def check_architecture(quantizer: str, settings: dict[str, Any], architecture: str) -> None:
    """Refuse a scheme that does not know such a model.

    Raises:
        UserError: says what would do; the caller adds where that stands.
    """
    if quantizer in OTHERS or architecture in PLAIN:
        return
    if architecture in UNKNOWN:
        raise UserError(f"would round a {architecture} model, which no quantizer of ours knows: take published or vllm")
    known = KNOWN.get(architecture, WEIGHTS)
    if quantizer not in known:
        raise UserError(f"does not know the parts of {architecture}: take {', '.join(known)}, published or vllm")
    if architecture in EXPERTS and (settings.keys() & {"activation_bits", "packed"}):
        raise UserError(
            f"cannot round the inputs of {architecture}'s experts, or pack them: take weights alone, published or vllm"
        )
    if architecture not in ROUNDED_ONLINE and settings.keys() & {"activation_bits", "kv_bits"}:
        raise UserError(
            f"rounds inputs or the cache, which was never seen to be right for {architecture}: take "
            f"{' or '.join(k for k in known if k != 'kvquant')} for weights alone, published or vllm"
        )
