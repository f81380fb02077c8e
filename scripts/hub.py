"""Files of a hub repository at one commit: fetched once into the store, verified, linked into artifacts.

`results/store/sources/{name}/{revision}/` holds `files/`, `parts/` (what a killed download left, to go on from) and
`listing.json`: size and digest of each file as the hub stated them or, where it states none, as first fetched. What
differs from that later is refused. HF_ENDPOINT names another hub. A token (HF_TOKEN) is only ever a header, and only of
what is asked of that hub itself; no answer is longer than it may be, or compressed (`_client.py`).
"""

import hashlib
import io
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, hf_hub_url, set_client_factory
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from scripts._client import SECONDS, client
from scripts.quantize._link import link_file
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.lease import lease
from scripts.run.progress import Progress

SOURCES = Path("results/store/sources")
WAITS = [1, 2, 4, 8, 16]  # seconds before each further attempt
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A repository at one commit, `revision`: all 40 digits of its name, or 7 where no more are known."""

    kind: str  # models or datasets
    name: str  # ours
    repository: str
    revision: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.repository} at {self.revision})"

    @property
    def folder(self) -> Path:
        return SOURCES / self.name / self.revision

    @property
    def hub(self) -> dict[str, str]:
        """The repository as huggingface_hub names it."""
        return {"repo_id": self.repository, "repo_type": self.kind.removesuffix("s")}


set_client_factory(client)


def listing(source: Source) -> dict[str, dict]:
    """Size and digest (None: not known yet) of each file of the repository; asked once, as a commit never changes.

    Raises:
        UserError: the hub cannot be reached, lacks the repository or the revision, or its listing is none.
    """
    return _read_listing(source)["files"]


def fetch(source: Source, names: Iterable[str]) -> dict[str, Path]:
    """The named files of the repository, verified: name → path in the store.

    Raises:
        UserError: the repository lacks a file, its content is not as stated or first fetched, the disk is too small,
            the hub cannot be reached or refuses.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log signed addresses
    disable_progress_bars()
    with lease(f"{source.name}-{source.revision}", f"fetching {source}"):
        known = _read_listing(source)
        paths = {name: source.folder / "files" / name for name in names}
        for name in paths:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(f"{source}: {name} is no name of a file below a folder")
            if name not in known["files"]:
                raise UserError(f"{source}: no file {name}; the repository has {', '.join(sorted(known['files']))}")
        missing = [n for n, path in paths.items() if not path.exists() or sha256(path) != known["files"][n]["sha256"]]
        left = sum(known["files"][name]["bytes"] - _size(_part(source, name)) for name in missing)
        free = shutil.disk_usage(source.folder).free
        if left > free:
            raise UserError(
                f"{source}: needs {left / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {source.folder}; make room there"
            )
        progress = Progress(f"{source.kind} {source.name}", left, "bytes")
        for name in missing:
            _fetch_file(source, name, known, progress)
        if missing:
            progress.close()
    return paths


def place(paths: dict[str, Path], target: Path) -> None:
    """Fill the folder `target` with hard links (copies across file systems), replacing what was there."""
    shutil.rmtree(target, ignore_errors=True)
    for name, path in paths.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link_file(str(path.resolve()), str(target / name))


def _read_listing(source: Source) -> dict:
    path = source.folder / "listing.json"
    if not path.exists():
        try:
            known = _ask_listing(source)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            said = f"{type(error).__name__}: {error!s:.200}"
            raise UserError(f"{source}: what the hub says of it is no listing ({said}): see HF_ENDPOINT") from None
        _write_listing(source, known)
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: delete it, and it is asked for anew") from None


def _ask_listing(source: Source) -> dict:
    api = HfApi()
    commit = source.revision
    if len(commit) < 40:
        commits = patiently(source, lambda: api.list_repo_commits(**source.hub))
        commit = next((c.commit_id for c in commits if c.commit_id.startswith(source.revision)), source.revision)
    info = patiently(source, lambda: api.repo_info(**source.hub, revision=commit, files_metadata=True, timeout=SECONDS))
    files = {
        f.rfilename: {
            "bytes": f.size,
            "sha256": f.lfs.sha256 if f.lfs else None,
            "blob": None if f.lfs else f.blob_id,  # of a file in LFS it would be its pointer's
        }
        for f in info.siblings
    }
    return _checked({"commit": commit, "files": files})


def _checked(known: Any) -> dict:
    """A listing, if each file has a name, a size, and a digest or none.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: it is of another form.
    """
    if not re.fullmatch(r"[0-9a-f]{7,40}", known["commit"]):
        raise ValueError("no commit")
    for name, file in known["files"].items():
        if type(file["bytes"]) is not int or not 0 <= file["bytes"] < 1 << 50:
            raise ValueError(f"{name!r:.80} has the size {file['bytes']!r:.40}")
        for kind, digits in (("sha256", 64), ("blob", 40)):
            if (digest := file.get(kind)) is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
                raise ValueError(f"{name!r:.80} has the digest {digest!r:.80}")
    return known


def _write_listing(source: Source, known: dict) -> None:
    text = json.dumps(known, indent=1, sort_keys=True) + "\n"
    write_atomically(source.folder / "listing.json", lambda path: path.write_text(text, encoding="utf-8"))


def _part(source: Source, name: str) -> Path:
    return source.folder / "parts" / name


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Part(io.BufferedWriter):
    """What has come of a file, up to its size; whatever is written to it counts as progress."""

    progress: Progress
    limit: int

    def write(self, chunk: bytes) -> int:
        if self.tell() + len(chunk) > self.limit:
            Path(self.raw.name).unlink()
            raise UserError(f"the hub sends more than the {self.limit:,} bytes that it stated")
        self.progress.add(len(chunk))
        return super().write(chunk)


def _fetch_file(source: Source, name: str, known: dict, progress: Progress) -> None:
    """Fetch one file, going on from where an earlier attempt was cut off, and keep its digest."""
    part, expected = _part(source, name), known["files"][name]
    part.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(**source.hub, filename=name, revision=known["commit"])

    def attempt() -> None:
        with _Part(io.FileIO(part, "ab")) as stream:
            stream.progress, stream.limit = progress, expected["bytes"]
            if stream.tell() < expected["bytes"]:
                http_get(url, stream, resume_size=stream.tell(), headers=build_hf_headers(), displayed_filename=name)

    patiently(source, attempt, name)
    found = sha256(part)
    blob_stated = expected.get("blob")
    other = expected["sha256"] not in (None, found) or (blob_stated and blob_stated != _blob(part))
    if _size(part) != expected["bytes"] or other:
        size = _size(part)
        part.unlink()
        raise UserError(
            f"{source}: {name} has sha256 {found} ({size} bytes), but should have {expected['sha256'] or blob_stated} "
            f"({expected['bytes']} bytes) as the hub stated or as first fetched ({source.folder / 'listing.json'}): "
            "run again; if it stays so, the content behind the revision was changed"
        )
    target = source.folder / "files" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    expected["sha256"] = found
    _write_listing(source, known)


def _blob(path: Path) -> str:
    """The name that git gives a file's content."""
    content = path.read_bytes()  # small ones: others are in LFS
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def patiently(source: Source, call: Callable[[], T], name: str = "") -> T:
    """Call, and again after a while if the hub or the network fails.

    Raises:
        UserError: it failed for good.
    """
    for wait in [*WAITS, None]:
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status < 500 and status != 429:
                raise UserError(_refusal(source, error, name)) from None
            reason = f"the hub answers {status}"
        except (httpx2.TransportError, ConnectionError) as error:
            reason = f"no connection ({type(error).__name__})"
        if wait is None:
            break
        log.warning("%s: %s; trying again in %d s", source, reason, wait)
        time.sleep(wait)
    raise UserError(
        f"{source}: {reason}: try again where {HfApi().endpoint} can be reached, what has come is kept; or name a copy "
        f"as local.{source.kind}.{source.name} in the study's config"
    )


def _refusal(source: Source, error: HfHubHTTPError, name: str) -> str:
    """What is wrong with a request that the hub refuses, and the cure."""
    page = f"https://huggingface.co/{'datasets/' if source.kind == 'datasets' else ''}{source.repository}"
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return (
            f"{source}: the hub answers {status}: if it is gated, accept its terms on {page} and set the environment "
            f"variable HF_TOKEN to a token of yours that may read it; else see that {page} exists"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{source}: no such revision; take one from {page}/commits/main"
    if isinstance(error, EntryNotFoundError):
        return f"{source}: no file {name}; see {page}/tree/{source.revision}"
    return f"{source}: the hub answers {status}; see that {page} exists"
