"""Add a model: python -m scripts.models.add OWNER/NAME[@REVISION] | FOLDER [--name NAME] [--published SCHEME=PLACE]

Writes config/models/NAME.yaml. Of a repository only small files, headers and the biases of keys are read. A model that
is there is looked at anew: its `facts` are replaced, what stands before them is kept. PLACE is a quantized checkpoint
that others made of it: OWNER/NAME[@REVISION][:FILE.gguf], a folder or a file.gguf.
"""

import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
import yaml
from jinja2 import Environment, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from scripts.hub import Source, fetch, listing, place
from scripts.models._facts import Read, facts_of, reader, sampling_of
from scripts.models._remote import commit_of, remote_reader
from scripts.models.hub import check_configurations, content_of, settle_tokenizer, taken, taken_of, weights_among
from scripts.run.errors import UserError
from scripts.run.files import write_atomically
from scripts.run.read import MODEL_NAME, MODELS, REPOSITORY, read_models, read_yaml
from scripts.template import check_template

AT_REVISION = re.compile(rf"{REPOSITORY}(?:@(?P<revision>[\w.-]+))?", re.ASCII)
MARKERS = ("<think> </think>", "[THINK] [/THINK]", "◁think▷ ◁/think▷", "<thought> </thought>")
SWITCHES = {"enable_thinking", "thinking"}  # by which templates open the thought


@dataclass(frozen=True)
class Found:
    """A model as it lies somewhere: what is small is here, weights are read in parts."""

    name: str
    place: dict[str, str]  # `folder` or `repository`
    revision: str
    small: dict[str, Path]
    weights: list[str]
    read: Read


def look(model: str, name: str | None) -> Found:
    """What there is of a folder or a repository.

    Raises:
        UserError: neither is there, or it holds no model that the pipeline takes.
    """
    if Path(model).is_dir():
        folder = Path(model).resolve()
        name = _checked(name or folder.name.lower())
        paths = taken_of(folder, folder)
        weights = weights_among(paths)
        small = {file: path for file, path in paths.items() if file not in weights}
        check_configurations(small, folder)
        return Found(name, {"folder": str(folder)}, content_of(paths), small, weights, reader(folder))
    match = AT_REVISION.fullmatch(model)
    if match is None:
        raise UserError(f"{model}: neither a folder here nor OWNER/NAME or OWNER/NAME@REVISION on the hub")
    repository = match["repository"]
    name = _checked(name or repository.rsplit("/", maxsplit=1)[1].lower())
    source = Source("models", name, repository, commit_of(repository, match["revision"] or "main"))
    names = taken(list(listing(source)), source)
    weights = weights_among(names)
    small = fetch(source, [file for file in names if file not in weights])
    check_configurations(small, source)
    return Found(name, {"repository": repository}, source.revision, small, weights, remote_reader(source))


def _checked(name: str) -> str:
    """A name in paths."""
    if not re.fullmatch(MODEL_NAME, name):
        raise UserError(f"{name}: a model's name is lower-case letters, digits, dots and hyphens: give one by --name")
    return name


def choices(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What the chat template and the vocabulary show of how the model thinks, where it is not the default."""
    found: dict[str, object] = {}
    template, vocabulary = tokenizer.chat_template or "", tokenizer.get_vocab()
    for known in (template, vocabulary):
        if marked := [pair for pair in MARKERS if all(marker in known for marker in pair.split())]:
            if marked[0] != MARKERS[0]:
                found["think"] = marked[0]
            break
    try:
        words = [(kind, word) for _, kind, word in Environment().lex(template) if kind != "whitespace"]  # noqa: S701
    except TemplateSyntaxError:
        return found  # whoever looks at the template says it
    read = {word for (_, before), (kind, word) in pairwise([("", ""), *words]) if kind == "name" and before != "."}
    if switches := sorted(read & SWITCHES):
        found["template"] = dict.fromkeys(switches, True)
    return found


def published_of(schemes: Sequence[str]) -> dict[str, str]:
    """SCHEME=PLACE as a model's file names it: with a commit, or where it lies on this machine.

    Raises:
        UserError: one is neither, or is not to be had.
    """
    found = {}
    for text in schemes:
        scheme, _, place = text.partition("=")
        repository, _, file = place.partition(":")
        if match := None if Path(place).exists() else AT_REVISION.fullmatch(repository):
            commit = commit_of(match["repository"], match["revision"] or "main")
            found[scheme] = f"{match['repository']}@{commit}" + (f":{file}" if file else "")
        elif Path(place).exists():
            found[scheme] = str(Path(place).resolve())
        else:
            raise UserError(f"--published {text}: no SCHEME=PLACE with a folder or file here, or OWNER/NAME on the hub")
    return found


def head_of(path: Path, place_of: dict[str, str], tokenizer: PreTrainedTokenizerBase, published: dict[str, str]) -> str:
    """What stands before the facts: as it is in the file, or, where there is none, what can be seen."""

    def written(choices: dict[str, object]) -> str:
        return yaml.safe_dump(choices, sort_keys=False, allow_unicode=True).strip("\n")

    more: dict[str, object] = {"published": published} if published else {}
    if not path.exists():
        return written(place_of | choices(tokenizer) | more)
    stated = read_yaml(path)
    if any(stated.get(key) != value for key, value in place_of.items()):
        raise UserError(f"{path}: it is another model's than {', '.join(place_of.values())}: give a name by --name")
    if "facts" in stated and list(stated)[-1] != "facts":
        raise UserError(f"{path}: {list(stated)[-1]} stands behind facts, which are written anew: move it before them")
    head = f"\n{path.read_text(encoding='utf-8')}".partition("\nfacts:\n")[0].strip("\n")
    if more and "published" in stated:
        raise UserError(f"{path}: it has `published` already: add there {written(more['published'])}")
    return f"{head}\n{written(more)}" if more else head


def main(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION] | FOLDER")],
    name: Annotated[str | None, typer.Option(help="Name in paths and tables; by default that of the model.")] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(metavar="SCHEME=PLACE", help="A quantized checkpoint that others made of it; may be repeated."),
    ] = None,
) -> None:
    for library in ("torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)  # they speak of kernels that nobody asked for
    try:
        print(add(model, name, published or []))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def add(model: str, name: str | None, published: Sequence[str] = ()) -> str:
    """Write the model's file, and return what to say of it.

    Raises:
        UserError: there is no such model, or it is none that the pipeline takes.
    """
    found, named = look(model, name), published_of(published)
    facts = {"revision": found.revision} | facts_of(found.small["config.json"], found.weights, found.read, model)
    if generation := found.small.get("generation_config.json"):
        facts |= sampling_of(generation, model)
    path = MODELS / f"{found.name}.yaml"
    with tempfile.TemporaryDirectory() as scratch:
        place(found.small, Path(scratch) / "model")  # a folder of links, of which one may be replaced
        settle_tokenizer(Path(scratch) / "model", model)
        tokenizer = AutoTokenizer.from_pretrained(Path(scratch) / "model")
        text = f"{head_of(path, found.place, tokenizer, named)}\n{yaml.safe_dump({'facts': facts}, sort_keys=False)}"
        (settings,) = read_models({path: text}).values()
        check_template(tokenizer, settings, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda written: written.write_text(text, encoding="utf-8"))
    return f"{path}:\n\n{text}\nName it in the grid of a study: models: [{found.name}]"


if __name__ == "__main__":
    typer.run(main)
