"""A model of the hub at a pinned revision: its safetensors, configuration and tokenizer, nothing that is code."""

import json
import math
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.hub import Source, fetch, listing, place
from scripts.manifest import write_manifest
from scripts.models._weights import WEIGHTS, check_config, check_weights, one_line, read_json
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import write_atomically
from scripts.run.stage import Output, Parameter, Settings, stage
from scripts.template import check_template

TAKEN = [
    WEIGHTS, "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE*", "LICENCE*", "NOTICE*",
]  # fmt: skip
STATED = [
    "max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads",
]  # fmt: skip
CONFIGURATIONS = ("config.json", "tokenizer_config.json")
PROBE = "It isn't 12345 + 67.8 = 12412.8,\n\n  so \\boxed{7}: 2 ≠ “Größe” 你好\t<think>\nWait</think>"


def taken(names: list[str], where: object) -> list[str]:
    """The files of a repository that are taken.

    Raises:
        UserError: it has no weights as safetensors, or no configuration.
    """
    chosen = [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in TAKEN)]
    if not any(fnmatchcase(name, WEIGHTS) for name in chosen):
        raise UserError(
            f"{where}: no weights as safetensors among {', '.join(sorted(names))}; pickled ones run code when they are "
            "loaded and are never taken: take a revision with safetensors"
        )
    for name in (*CONFIGURATIONS, "tokenizer.json"):
        if name not in chosen:
            raise UserError(f"{where}: no {name} among {', '.join(sorted(names))}: take another revision or copy")
    return chosen


def check_no_code(path: Path, where: object) -> None:
    """Refuse a configuration that names code of the repository's own."""
    if code := read_json(path, where).get("auto_map"):
        raise UserError(
            f"{where}: auto_map in {path.name} asks for code of the repository, {json.dumps(code)}, which is never "
            "run: take a model whose architecture transformers knows"
        )


def facts_of(checkpoint: Path, where: object) -> dict[str, object]:
    """What config.json and the headers of the weights say, under the names of config/models.tsv.

    Raises:
        UserError: config.json leaves one out.
    """
    config, shapes = read_json(checkpoint / "config.json", where), {}
    for name in STATED:
        if name not in config:
            raise UserError(f"{where}: config.json does not say {name}, which the pipeline plans with: add it")
    for path in checkpoint.glob(WEIGHTS):
        with safe_open(path, "np") as tensors:
            shapes |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    return {
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "context_length": config["max_position_embeddings"],
        "parameters": sum(map(math.prod, shapes.values())),
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    }


def settle_tokenizer(checkpoint: Path, where: object) -> None:
    """Make transformers load the tokenizer that tokenizer.json describes.

    transformers 5 builds the class that tokenizer_config.json names by that class' own rules. Those of LlamaTokenizer,
    which the R1 distillations of Llama name, drop the spaces between their words; it knows that only of models that are
    loaded by their name on the hub. Where the two differ, the class that follows tokenizer.json is named instead.

    Raises:
        UserError: a file cannot be read, or they differ even so.
    """
    try:
        described = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(PROBE, add_special_tokens=False).ids
        loaded = AutoTokenizer.from_pretrained(checkpoint)
    except Exception as error:  # noqa: BLE001 - both raise what they like
        raise UserError(f"{where}: its tokenizer cannot be read ({one_line(error)}): fetch its files anew") from None

    def agrees(tokenizer: PreTrainedTokenizerBase) -> bool:
        return tokenizer(PROBE, add_special_tokens=False).input_ids == described

    if agrees(loaded):
        return
    config = checkpoint / "tokenizer_config.json"
    named = json.loads(config.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    text = json.dumps(named, indent=2, ensure_ascii=False) + "\n"
    write_atomically(config, lambda path: path.write_text(text, encoding="utf-8"))
    record.add_facts(tokenizer_class="PreTrainedTokenizerFast")
    if not agrees(AutoTokenizer.from_pretrained(checkpoint)):
        raise UserError(
            f"{where}: transformers splits text unlike tokenizer.json: the model would read what it never learnt to; "
            "take a revision whose tokenizer.json it follows"
        )


def check_configurations(paths: dict[str, Path], where: object) -> None:
    for name in CONFIGURATIONS:
        check_no_code(paths[name], where)
    check_config(paths["config.json"], where)


@stage
def main(manifest: Output, checkpoint: Output, model: Parameter, settings: Settings) -> None:
    if settings["local"]:
        where, folder = f"models {model}: {settings['local']}", Path(settings["local"])
        names = taken([path.name for path in folder.iterdir() if path.is_file()], where)
        paths = {name: folder / name for name in names}
        check_configurations(paths, where)
    else:
        where = Source("models", model, settings["repository"], settings["revision"])
        names = taken(list(listing(where)), where)
        check_configurations(fetch(where, CONFIGURATIONS), where)  # before the weights, which are large
        paths = fetch(where, names)
    place(paths, checkpoint)
    check_weights(checkpoint, where)
    for fact, value in facts_of(checkpoint, where).items():
        if settings[fact] != value:
            raise UserError(
                f"config/models.tsv: model {model}: {fact} is {settings[fact]}, {where} has {value}; correct it"
            )
    record.add_facts(source=settings["local"] or settings["repository"])
    settle_tokenizer(checkpoint, where)
    check_template(AutoTokenizer.from_pretrained(checkpoint), settings, where)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
