"""What others published of a model, as it is served: their weights, the model's own tokenizer and chat template.

So both are asked the same. Safetensors stay as they are, and vLLM reads their format; of a GGUF transformers makes the
weights that it stands for, in the model's dtype.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from scripts._formats import gguf_in
from scripts.engine import write_engine
from scripts.manifest import write_manifest
from scripts.models._weights import dtype_of, one_line, read_json
from scripts.quantize._link import link_checkpoint, link_file
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.stage import Input, Output, stage

ASKED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
CACHES = {8: "fp8", 4: "nvfp4"}  # how vLLM names what a checkpoint says of its cache


def with_own_tokenizer(published: Path, model: Path, checkpoint: Path) -> list[str]:
    """Fill `checkpoint` with the published files and the model's tokenizer; the names of what they replaced."""
    link_checkpoint(published, checkpoint)
    replaced = []
    for name in ASKED:
        theirs, ours = checkpoint / name, model / name
        if theirs.exists():
            if not ours.exists() or sha256(theirs) != sha256(ours):
                replaced.append(name)
            theirs.unlink()  # the link, not what it leads to
        if ours.exists():
            link_file(str(ours), str(theirs))
    return replaced


def dequantize(file: Path, model: Path, checkpoint: Path) -> None:
    """A copy of the model with the weights of a GGUF.

    Raises:
        UserError: transformers cannot read it, or a weight is missing, of another shape or not finite.
    """
    link_checkpoint(model, checkpoint)
    dtype = getattr(torch, dtype_of(read_json(model / "config.json", model)))
    try:
        network, found = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # noqa: BLE001 - transformers and gguf raise what they like
        raise UserError(f"{file}: transformers cannot read it: {one_line(error)}") from None
    made_up = {*found["missing_keys"], *found["mismatched_keys"]}  # which transformers fills with random numbers
    weights = {name: tensor for name, tensor in network.state_dict().items() if name not in made_up}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            metadata = tensors.metadata()
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        changed = {}
        for name, shape in shapes.items():
            tensor = weights.get(name)
            if tensor is None or list(tensor.shape) != shape or not tensor.isfinite().all():
                said = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}, or is not finite"
                raise UserError(f"{file}: {name} {said}, the model's has {shape}: it was made of another model")
            changed[name] = tensor.to(dtype).contiguous()
        write_atomically(shard, lambda path, t=changed, metadata=metadata: save_file(t, path, metadata))


@stage
def main(model: Input, published: Input, checkpoint: Output, manifest: Output) -> None:
    sizes = json.loads(published.with_name("manifest.json").read_text(encoding="utf-8"))["sizes"]
    if file := gguf_in(published):
        try:
            dequantize(file, model, checkpoint)
        except UserError:
            shutil.rmtree(checkpoint)
            raise
        record.add_facts(dequantized=file.name)
    else:
        record.add_facts(replaced=with_own_tokenizer(published, model, checkpoint))
        if kind := CACHES.get(sizes["kv_bits"]):
            write_engine(checkpoint, {"kv_cache_dtype": kind, "kv_bits": sizes["kv_bits"]})
    write_manifest(checkpoint, manifest, sizes)


if __name__ == "__main__":
    main()
