"""Is a folder still what its manifest says? By size and time where these are as last seen, else by content."""

import json
from pathlib import Path

from scripts.run.files import sha256, write_atomically


def altered_files(folder: Path, manifest: Path) -> list[str]:
    """Names of files of `folder` that are missing or differ from `manifest`; if none, that is remembered."""
    memory = _memory(manifest)
    seen = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    now = _status(folder, manifest)
    altered = [
        name
        for name, status in now.items()
        if status is None or status[1] != status[3] or (seen.get(name) != status and sha256(folder / name) != status[0])
    ]
    if not altered and now != seen:
        remember(folder, manifest)
    return altered


def remember(folder: Path, manifest: Path) -> None:
    """Note sizes and times of files that are known to be what the manifest says."""
    status = json.dumps(_status(folder, manifest))
    write_atomically(_memory(manifest), lambda path: path.write_text(status, encoding="utf-8"))


def _memory(manifest: Path) -> Path:
    return manifest.with_name(".seen.json")


def _status(folder: Path, manifest: Path) -> dict[str, list | None]:
    """Per file: digest and size that the manifest states, time and size on disk; None if it is missing."""
    found = {}
    for name, entry in json.loads(manifest.read_text(encoding="utf-8"))["files"].items():
        path = folder / name
        disk = path.stat() if path.is_file() else None
        found[name] = disk and [entry["sha256"], entry["bytes"], disk.st_mtime_ns, disk.st_size]
    return found
