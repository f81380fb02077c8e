"""A quantized checkpoint that others made of a model: fetched, or taken from this machine, and compared with the model.

It is unchanged here; `scripts/quantize/published.py` makes of it what is served. Its configuration is looked at before
its weights are fetched.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from scripts._formats import config_of, gguf_in, method_of, read_gguf, sizes_of, tokens_of
from scripts.engine import offered
from scripts.hub import Source, fetch, listing, place
from scripts.manifest import write_manifest
from scripts.models._weights import check_index, headers
from scripts.models.hub import check_no_code
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.stage import Input, Inputs, Output, Settings, stage

WEIGHTS, WHOLE = "*.safetensors", "consolidated*"  # of which a second copy may lie there under another name
CONFIGURATION = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "hf_quant_config.json",
    "model.safetensors.index.json", "LICENSE*", "LICENCE*", "NOTICE*",
]  # fmt: skip
TEMPLATE = "tokenizer.chat_template"  # of a GGUF
SHAPES = [
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size",
]  # fmt: skip
# Of a configuration what changes no answer: names, and what the engine is told by the model's file.
SILENT = {
    "_name_or_path", "_model_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id",
    "initializer_range", "pad_token_id", "quantization_config", "torch_dtype", "transformers_version", "unk_token_id",
    "use_cache",
}  # fmt: skip


def chosen(names: Iterable[str], patterns: list[str]) -> list[str]:
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns) and not fnmatchcase(n, WHOLE)]


def check_method(folder: Path, where: object) -> None:
    """Refuse a format that the installed vLLM does not serve.

    Raises:
        UserError: names the format, and those that it serves.
    """
    known, method = offered("quant_method"), method_of(folder, where)
    name = method.get("quant_method", "none that is named") if isinstance(method, dict) else "none that is named"
    if method and name not in known:
        raise UserError(
            f"{where}: its format is {name}, which this vLLM does not serve: take one in a format that it does "
            f"({', '.join(known)}), or a GGUF"
        )


def check_shapes(theirs: PretrainedConfig, ours: PretrainedConfig, where: object, skipped: str = "") -> None:
    """Refuse a checkpoint of another model, by its sizes; what else differs is told.

    Args:
        theirs: configuration of the checkpoint.
        ours: of the model.
        where: what messages name.
        skipped: a size that is compared otherwise.

    Raises:
        UserError: names the size.
    """
    for name in SHAPES:
        pair = [_size(config, name) for config in (theirs, ours)]
        if name != skipped and pair[0] != pair[1]:
            raise UserError(f"{where}: its {name} is {pair[0]}, the model's is {pair[1]}: it was made of another model")
    a, b = theirs.to_dict(), ours.to_dict()
    other = {name: [a[name], b[name]] for name in sorted(a.keys() & b.keys() - SILENT - {skipped})}
    other = {name: pair for name, pair in other.items() if not _same(*pair)}
    for name, (value, own) in other.items():
        print(f"{where}: its {name} is {value}, the model's is {own}; it is served as it was published", flush=True)
    record.add_facts(differs_from_model=other)


def _size(config: PretrainedConfig, name: str) -> Any:
    value = getattr(config, name, None)
    return config.hidden_size // config.num_attention_heads if name == "head_dim" and not value else value


def _same(a: Any, b: Any) -> bool:
    """Equal, but for what GGUF loses of a number by storing it in 32 bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_same(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 * abs(b)
    return a == b


def check_tokens(theirs: dict[int, str], ours: dict[int, str], where: object) -> None:
    """Refuse a vocabulary in which a number means another token than in the model's.

    Raises:
        UserError: names the first such token.
    """
    for number in sorted(theirs.keys() & ours.keys()):
        if theirs[number] != ours[number]:
            raise UserError(
                f"{where}: its token {number} is {theirs[number]!r}, the model's is {ours[number]!r}: it was made of "
                "another model, or of other files of its tokenizer"
            )


def compare(folder: Path, model: Path, where: object) -> None:
    """What of a checkpoint can be told without its weights.

    Raises:
        UserError: it holds code, is in a format that is not served, or was made of another model.
    """
    if not gguf_in(folder):
        for name in ("config.json", "tokenizer_config.json"):
            if (folder / name).exists():
                check_no_code(folder / name, where)
        check_method(folder, where)
    # A GGUF may pad its vocabulary otherwise; its rows are compared when they are read.
    check_shapes(config_of(folder, where), config_of(model, model), where, "vocab_size" if gguf_in(folder) else "")
    check_tokens(tokens_of(folder, where), tokens_of(model, model), where)
    if (file := gguf_in(folder)) and (theirs := read_gguf(file).fields.get(TEMPLATE)):
        own = AutoTokenizer.from_pretrained(model).chat_template
        record.add_facts(replaced=["chat_template"] if theirs.contents() != own else [])


@stage
def main(model: Input, manifest: Output, checkpoint: Output, settings: Settings, files: Inputs = ()) -> None:
    name = "/".join(manifest.parts[-3:-1])
    if settings["local"]:
        where: object = f"published {name}: {settings['local']}"
        here = {path.name: path for path in files if path.is_relative_to(settings["local"])}
        source = None
    else:
        source = where = Source("models", name.replace("/", "."), settings["repository"], settings["revision"])
        here = dict.fromkeys(listing(source), Path())
    if settings["file"] or settings["local"].endswith(".gguf"):
        names, early = [settings["file"] or Path(settings["local"]).name], []
    else:
        names = chosen(here, [WEIGHTS, *CONFIGURATION])
        early = chosen(here, CONFIGURATION)
        if "config.json" not in early or names == early:
            raise UserError(
                f"{where}: no config.json and safetensors among {', '.join(sorted(here))}: pickled weights run code "
                "when they are loaded and are never taken; of a GGUF name the file"
            )

    def bring(wanted: list[str]) -> dict[str, Path]:
        paths = fetch(source, wanted) if source else {name: here[name] for name in wanted}
        return {Path(name).name: path for name, path in paths.items()}

    record.add_facts(source=settings["local"] or settings["repository"])
    with TemporaryDirectory() as scratch:
        if early:
            place(bring(early), Path(scratch) / "early")
            compare(Path(scratch) / "early", model, where)
    place(bring(names), checkpoint)
    if gguf_in(checkpoint):
        compare(checkpoint, model, where)
    else:
        shards = {path.name: path for path in checkpoint.glob("*.safetensors")}
        places = {tensor: shard for shard, path in shards.items() for tensor, _ in headers(path, where)}
        check_index(checkpoint, places, set(shards), where)
    write_manifest(checkpoint, manifest, sizes_of(checkpoint, model, where))


if __name__ == "__main__":
    main()
