"""`manifest.json`: what a folder holds, beside it; identical content, identical manifest."""

import json
from pathlib import Path
from typing import Any

from scripts.run.files import sha256, write_atomically


def write_manifest(checkpoint: Path, manifest: Path, sizes: dict[str, Any] | None = None) -> None:
    """Write the digest and size of every file of the folder, sorted, without dates.

    `sizes` are bits and bytes of a checkpoint that its files alone can tell: nobody here made it, or it has experts
    (`scripts/_formats.py`).
    """
    files = {
        str(path.relative_to(checkpoint)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    content = {"files": files} | ({"sizes": sizes} if sizes else {})
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_atomically(manifest, lambda path: path.write_text(text, encoding="utf-8"))
