"""How vLLM is started for a checkpoint, and what of it can move a sample."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, PretrainedConfig

from scripts.engine import OPTIONS, read_engine
from scripts.fakequant.settings import is_foreign, is_packed, read_settings
from scripts.generate.packed import ROUND_ACTIVATIONS
from scripts.run.devices import check_visible
from scripts.run.errors import UserError
from scripts.run.imports import code_digest, package_versions
from scripts.run.resources import GPU_SHARE

if TYPE_CHECKING:
    from vllm import LLM


ELSEWHERE = "generate on a machine that can, or leave this scheme out"
MOST = 1.5  # times the bits that are stated, with scales
BLOCK = 128  # tokens of the KV cache that a sequence is given at once on a CPU
LOG_STREAM = {"VLLM_LOGGING_STREAM": "ext://sys.stderr"}  # read when vLLM is imported


def engine_identity(checkpoint: Path, settings: dict) -> dict:
    """What of the engine can move a sample, known without starting it."""
    packages = package_versions("scripts.generate.engine")
    plugin = {"plugin": code_digest("scripts.fakequant.plugin")} if read_settings(checkpoint) else {}
    device, attention = device_and_attention(checkpoint, settings["dtype"])
    # On a GPU the kernel follows from the device and vLLM's version.
    packed = {"int4_w4a8": ROUND_ACTIVATIONS} if is_packed(checkpoint) and device == "cpu" else {}
    return (
        plugin
        | packed
        | {
            "engine": {name: version for name, version in packages.items() if name.startswith("vllm")},
            "device": device,
            "dtype": settings["dtype"],
            "attention_backend": attention,
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0"),
        }
    )


def device_and_attention(checkpoint: Path, dtype: str) -> tuple[str, str]:
    """Names of the device and of the attention backend that serve a checkpoint here.

    For CPUs vLLM has one backend, so it need not be imported, which takes seconds; `start_engine` checks.

    Raises:
        UserError: no backend keeps a cache as the checkpoint asks for.
    """
    import torch

    cache = read_engine(checkpoint).get("kv_cache_dtype", "auto")
    if not torch.cuda.is_available() and cache == "auto":
        return "cpu", "CPU_ATTN"
    try:
        return preferred(head_dim(AutoConfig.from_pretrained(checkpoint)), dtype, cache)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error!s:.1000}: {ELSEWHERE}") from None


def preferred(head_size: int, dtype: str, cache: str = "auto") -> tuple[str, str]:
    """Names of vLLM's device and of the attention backend that it prefers there; CUDA is not initialized by asking.

    Raises:
        ValueError: no backend there keeps a cache of this type.
    """
    os.environ |= LOG_STREAM
    import torch
    from vllm import envs
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.attention.selector import AttentionSelectorConfig

    asked = AttentionSelectorConfig(
        head_size, getattr(torch, dtype), cache, block_size=None, use_batch_invariant=envs.VLLM_BATCH_INVARIANT
    )
    backend = resolve_obj_by_qualname(current_platform.get_attn_backend_cls(None, asked))
    # On a CPU vLLM would take any, and keep what it likes.
    if cache != "auto" and not backend.supports_kv_cache_dtype(cache):
        raise ValueError(
            f"{backend.get_name()}, vLLM's attention here, keeps no {cache} cache, only "
            f"{', '.join(backend.supported_kv_cache_dtypes)}"
        )
    return current_platform.get_device_name(), backend.get_name()


class Asked:
    """What vLLM's workers are asked for beside what they can tell themselves (`worker_extension_cls`)."""

    def attention_backends(self) -> list[str]:
        """Names of the backends of this worker's attention layers."""
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        return sorted({layer.attn_backend.get_name() for layer in layers if hasattr(layer, "attn_backend")})

    def held(self) -> dict[str, float]:
        """Bits of a weight of the decoder blocks' linear layers, scales with them, and of a number in the cache.

        16 or 32 stand for weights that vLLM took as they are; a CPU keeps those where nobody sees them.
        """
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        weights = stored = 0.0
        for name, layer in self.model_runner.model.named_modules():
            if not isinstance(layer, LinearBase) or ".layers." not in name:
                continue
            count = layer.input_size_per_partition * layer.output_size_per_partition
            parts = [part for kind, part in layer.named_parameters() if kind != "bias"]
            plain = isinstance(layer.quant_method, UnquantizedLinearMethod)
            full = count * self.model_config.dtype.itemsize
            weights, stored = weights + count, stored + (full if plain else sum(part.nbytes for part in parts))
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        caches = [layer for layer in layers if hasattr(layer, "attn_backend")]
        tokens = self.cache_config.num_gpu_blocks * self.cache_config.block_size
        numbers = sum(2 * tokens * layer.num_kv_heads * layer.head_size for layer in caches)
        cached = sum(layer.kv_cache.nbytes for layer in caches)
        return {"bits": 8 * stored / weights, "kv_bits": 8 * cached / numbers}


def start_engine(checkpoint: Path, settings: dict) -> "LLM":
    """vLLM in this process; the KV cache holds `max_num_seqs` sequences of full length on a CPU.

    Raises:
        UserError: the checkpoint cannot be served on this number of GPUs.
        RuntimeError: vLLM attends with another backend than the samples' addresses say.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    os.environ |= LOG_STREAM
    if on_gpu:
        # What has asked for GPUs cannot fork processes that use them.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        limits = {"gpu_memory_utilization": GPU_SHARE}
    else:
        # One process with the threads that the job was given; without a stated size vLLM takes the machine's memory.
        defaults = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
        os.environ |= defaults | os.environ
        os.environ["VLLM_CPU_INT4_W4A8"] = ROUND_ACTIVATIONS
        config = AutoConfig.from_pretrained(checkpoint)
        blocks = settings["max_num_seqs"] * math.ceil(settings["max_model_len"] / BLOCK) + 1  # one is vLLM's own
        tokens = blocks * BLOCK
        limits = {"kv_cache_memory_bytes": tokens * kv_bytes_per_token(config, settings["dtype"])}
        # A prompt read in parts makes vLLM turn back the request's generator, which torch cannot do on a CPU.
        limits |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, settings["max_model_len"])}
    if fake := read_settings(checkpoint):
        from scripts.fakequant.plugin import check_tensor_parallel  # registers the plugin

        try:
            check_tensor_parallel(fake, tensor_parallel_size())
        except ValueError as error:
            raise UserError(f"{checkpoint}: {error}") from None
    from vllm import LLM

    if "thinking_tokens" in settings:
        from vllm.config import ReasoningConfig

        opened, closed = settings["think"].split()
        limits["reasoning_config"] = ReasoningConfig(reasoning_start_str=opened, reasoning_end_str=closed)
    _, attention = device_and_attention(checkpoint, settings["dtype"])
    engine = read_engine(checkpoint)
    options = {name: engine[name] for name in OPTIONS if name in engine}
    size = tensor_parallel_size()
    try:
        llm = LLM(
            model=str(checkpoint),
            dtype=settings["dtype"],
            max_model_len=settings["max_model_len"],
            max_num_seqs=settings["max_num_seqs"],
            tensor_parallel_size=size,
            enforce_eager=not on_gpu,
            attention_backend=attention,
            worker_extension_cls=f"{__name__}.Asked",
            generation_config="vllm",
            seed=0,
            **limits,
            **options,
        )
    except Exception as error:  # vLLM raises what it likes
        if not (options or is_foreign(checkpoint)):
            raise
        said = " ".join(str(error).split())
        raise UserError(f"{checkpoint}: vLLM does not serve it here: {said:.1000}: {ELSEWHERE}") from error
    if engine:
        check_held(checkpoint, engine, llm.collective_rpc("held")[0])
    used = {name for names in llm.collective_rpc("attention_backends") for name in names}
    if used != {attention}:
        raise RuntimeError(f"{checkpoint}: vLLM attends with {used}, but the addresses of its samples say {attention}")
    return llm


def check_held(checkpoint: Path, engine: dict, held: dict[str, float]) -> None:
    """Whether vLLM holds weights and cache in as many bits as the scheme states; scales come on top.

    Some of its options are for experts alone, and leave a model that has none as it is.

    Raises:
        UserError: it does not.
    """
    for name, bits in held.items():
        if name in engine and not engine[name] <= bits < MOST * engine[name]:
            options = ", ".join(f"{option} {engine[option]}" for option in OPTIONS if option in engine)
            raise UserError(
                f"{checkpoint}: the scheme states {name} {engine[name]}, with {options} vLLM holds {bits:.1f} of this "
                "model here: correct the scheme (config/quantizers.yaml), or leave it out"
            )


def tensor_parallel_size() -> int:
    """All GPUs that the job took, which are as many as were planned; one process on a CPU."""
    import torch

    check_visible(torch.cuda.device_count())
    return torch.cuda.device_count() or 1


def head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_bytes_per_token(config: PretrainedConfig, dtype: str) -> int:
    """Bytes that one token occupies in the KV cache, over all layers."""
    import torch

    heads = 2 * config.num_hidden_layers * config.num_key_value_heads
    return heads * head_dim(config) * getattr(torch, dtype).itemsize
