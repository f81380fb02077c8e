"""`manifest.json`: what a folder holds, beside it; identical content, identical manifest."""

import json
from pathlib import Path

from scripts.run.files import sha256, write_atomically


def write_manifest(checkpoint: Path, manifest: Path) -> None:
    """Write the digest and size of every file of the folder, sorted, without dates."""
    files = {
        str(path.relative_to(checkpoint)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"files": files}, indent=1, sort_keys=True) + "\n"
    write_atomically(manifest, lambda path: path.write_text(text, encoding="utf-8"))
