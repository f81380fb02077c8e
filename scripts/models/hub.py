"""A model of the hub at a pinned revision: its safetensors, configuration and tokenizer, nothing that is code."""

import hashlib
import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.hub import Source, fetch, listing, place
from scripts.manifest import write_manifest
from scripts.models._facts import facts_of, reader
from scripts.models._weights import WEIGHTS, check_config, check_weights, one_line, read_json
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.stage import Output, Parameter, Settings, stage
from scripts.template import check_template

TAKEN = [
    WEIGHTS, "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "LICENSE*", "LICENCE*", "NOTICE*",
]  # fmt: skip
CONFIGURATIONS = ("config.json", "tokenizer_config.json")
ANY_TOKENIZER = "PreTrainedTokenizerFast"
PROBE = "It isn't 12345 + 67.8 = 12412.8,\n\n  so \\boxed{7}: 2 ≠ “Größe” 你好\t<think>\nWait</think>"


def taken(names: list[str], where: object) -> list[str]:
    """The files of a repository that are taken.

    Raises:
        UserError: it has no weights as safetensors, or no configuration.
    """
    chosen = [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in TAKEN)]
    if not weights_among(chosen):
        raise UserError(
            f"{where}: no weights as safetensors among {', '.join(sorted(names))}; pickled ones run code when they are "
            "loaded and are never taken: take a revision with safetensors"
        )
    for name in (*CONFIGURATIONS, "tokenizer.json"):
        if name not in chosen:
            raise UserError(f"{where}: no {name} among {', '.join(sorted(names))}: take another revision or copy")
    return chosen


def weights_among(names: Iterable[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, WEIGHTS)]


def check_no_code(path: Path, where: object) -> None:
    """Refuse a configuration that names code of the repository's own."""
    if code := read_json(path, where).get("auto_map"):
        raise UserError(
            f"{where}: auto_map in {path.name} asks for code of the repository, {json.dumps(code)}, which is never "
            "run: take a model whose architecture transformers knows"
        )


def content_of(paths: dict[str, Path]) -> str:
    """The revision of a folder: the digest of what is taken of it."""
    digests = {name: sha256(path) for name, path in sorted(paths.items())}
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def settle_tokenizer(checkpoint: Path, where: object) -> str | None:
    """Make transformers load the tokenizer that tokenizer.json describes; returns the class that is named instead.

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
        return None
    config = checkpoint / "tokenizer_config.json"
    named = json.loads(config.read_text(encoding="utf-8")) | {"tokenizer_class": ANY_TOKENIZER}
    text = json.dumps(named, indent=2, ensure_ascii=False) + "\n"
    write_atomically(config, lambda path: path.write_text(text, encoding="utf-8"))
    if not agrees(AutoTokenizer.from_pretrained(checkpoint)):
        raise UserError(
            f"{where}: transformers splits text unlike tokenizer.json: the model would read what it never learnt to; "
            "take a revision whose tokenizer.json it follows"
        )
    return ANY_TOKENIZER


def check_configurations(paths: dict[str, Path], where: object) -> None:
    for name in CONFIGURATIONS:
        check_no_code(paths[name], where)
    check_config(paths["config.json"], where)


def taken_of(folder: Path, where: object) -> dict[str, Path]:
    """The files of a folder on this machine that are taken: name → path."""
    return {name: folder / name for name in taken([path.name for path in folder.iterdir() if path.is_file()], where)}


@stage
def main(manifest: Output, checkpoint: Output, model: Parameter, settings: Settings) -> None:
    stated = f"config/models/{model}.yaml"
    if settings["local"]:
        where = f"models {model}: {settings['local']}"
        paths = taken_of(Path(settings["local"]), where)
        check_configurations(paths, where)
        if not settings["repository"] and content_of(paths) != settings["revision"]:
            raise UserError(
                f"{where}: its files are no longer those of the revision in {stated}: if they should be, run "
                f"`python -m scripts.models.add {settings['local']} --name {model}`"
            )
    else:
        where = Source("models", model, settings["repository"], settings["revision"])
        names = taken(list(listing(where)), where)
        check_configurations(fetch(where, CONFIGURATIONS), where)  # before the weights, which are large
        paths = fetch(where, names)
    place(paths, checkpoint)
    check_weights(checkpoint, where)
    found = facts_of(checkpoint / "config.json", weights_among(paths), reader(checkpoint), where)
    for fact, value in found.items():
        if fact in settings and settings[fact] != value:
            raise UserError(f"{stated}: facts.{fact} is {settings[fact]}, {where} has {value}; correct it")
    record.add_facts(source=settings["local"] or settings["repository"])
    if settled := settle_tokenizer(checkpoint, where):
        record.add_facts(tokenizer_class=settled)
    check_template(AutoTokenizer.from_pretrained(checkpoint), settings, where)
    write_manifest(checkpoint, manifest)


if __name__ == "__main__":
    main()
