"""What vLLM does itself to a checkpoint: `engine.json` in the checkpoint's folder.

It stands there so that what a checkpoint is served as is part of what it is: digest, store and records need to know no
more. `{"quantization": "fp8_per_channel", "bits": 8}` rounds weights as they are loaded, `{"kv_cache_dtype": "fp8",
"kv_bits": 8}` keys and values as they are cached; the engine is asked whether it holds so many bits.
"""

import ast
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from scripts.run.files import write_atomically

FILE = "engine.json"
OPTIONS = ("quantization", "kv_cache_dtype")  # vLLM's
# Where vLLM lists the values of an option, and under which name. Checkpoints state a method of their own.
LISTS = {
    "quantization": ("config/quantization.py", "_ONLINE_SHORTHANDS"),
    "kv_cache_dtype": ("config/cache.py", "CacheDType"),
    "quant_method": ("model_executor/layers/quantization/__init__.py", "QuantizationMethods"),
}


def read_engine(checkpoint: Path) -> dict[str, Any]:
    """What the engine is to do with a checkpoint; nothing with most."""
    path = checkpoint / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_engine(checkpoint: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    write_atomically(checkpoint / FILE, lambda path: path.write_text(text, encoding="utf-8"))


@functools.cache
def offered(option: str) -> list[str]:
    """The values of an option, or `quant_method`s, that the installed vLLM knows, read from its source.

    To import it takes seconds, and a GPU where it was built for one; whoever submits jobs may have none.

    Raises:
        LookupError: vLLM lists them somewhere else.
    """
    file, name = LISTS[option]
    path = Path(importlib.util.find_spec("vllm").origin).parent / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            values = node.value.keys if isinstance(node.value, ast.Dict) else node.value.slice.elts
            return [value.value for value in values]
    raise LookupError(f"{path}: no {name}")
