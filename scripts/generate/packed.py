"""Whether vLLM can multiply by packed 4-bit weights here: on a GPU always, on a CPU where it has the kernel."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from scripts.fakequant.settings import is_packed
from scripts.run.errors import UserError

CPU_MULTIPLE = 32  # of the sizes that vLLM's kernel for packed weights on a CPU knows
ROUND_ACTIVATIONS = "0"  # where a CPU has AMX vLLM would round activations to 8 bits, which no scheme asked for


def check_packed(checkpoint: Path, settings: dict) -> None:
    """Packed weights need a kernel, which vLLM has for GPUs and for some CPUs: there in bfloat16, for some sizes.

    Raises:
        UserError: the checkpoint's weights are packed, there is no GPU, and vLLM has no kernel for them here.
    """
    import torch

    if not is_packed(checkpoint) or torch.cuda.is_available():
        return
    if settings["dtype"] != "bfloat16":
        reason = f"vLLM's kernel for them on a CPU computes in bfloat16, the model's dtype is {settings['dtype']}"
    elif sizes := [size for size in linear_sizes(AutoConfig.from_pretrained(checkpoint)) if size % CPU_MULTIPLE]:
        reason = f"vLLM's kernel for them on a CPU takes multiples of {CPU_MULTIPLE}, a layer has {sizes[0]} channels"
    elif not has_cpu_kernel():
        reason = "vLLM has no kernel for them on this CPU (cpu_gemm_wna16, which wants AVX-512)"
    else:
        return
    raise UserError(
        f"{checkpoint}: its weights are packed, and {reason}: generate on a machine with a GPU, or evaluate the "
        "dequantized twin, the scheme without `packed` (in config/quantizers.yaml)"
    )


def has_cpu_kernel() -> bool:
    """Whether vLLM, as it was built for this CPU, multiplies by packed 4-bit weights."""
    import torch
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    return hasattr(torch.ops._C, "cpu_gemm_wna16")


def linear_sizes(config: PretrainedConfig) -> list[int]:
    """Input and output channels of the linear layers of a block."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = [config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim]
    return [config.hidden_size, config.intermediate_size, *heads]
