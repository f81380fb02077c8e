"""A repository of the hub looked at without fetching it: its commit, and parts of its files."""

import re

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from scripts._client import SECONDS
from scripts.hub import Source, listing, patiently
from scripts.models._facts import Read
from scripts.run.errors import UserError

RANGE_LIMIT = 256 << 20  # bytes: a header of 100 MiB is safetensors' longest


def commit_of(repository: str, revision: str) -> str:
    """The commit of a model that a branch, a tag or a commit's name stands for now.

    Raises:
        UserError: the hub cannot be reached, lacks the repository or the revision, or names no commit.
    """
    source = Source("models", repository.rsplit("/", maxsplit=1)[1], repository, revision)
    info = patiently(source, lambda: HfApi().repo_info(**source.hub, revision=revision, timeout=SECONDS))
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise UserError(f"{source}: the hub names no commit of it: see HF_ENDPOINT")
    return info.sha


def remote_reader(source: Source) -> Read:
    """Reads parts of the files of a repository at a whole commit; they are not verified, as only whole files can be.

    Raises, as it is used:
        UserError: the hub cannot be reached, or sends other bytes than it was asked for.
    """
    files = listing(source)

    def read(name: str, start: int, stop: int) -> bytes:
        if not 0 <= start < stop <= min(files[name]["bytes"], start + RANGE_LIMIT):
            raise UserError(f"{source}: {name} has no bytes {start:,} to {stop:,}: it is cut, or no safetensors")
        url = hf_hub_url(**source.hub, filename=name, revision=source.revision)
        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"}

        def attempt() -> bytes:
            content = b""
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                for chunk in response.iter_raw() if response.status_code == 206 else ():
                    content += chunk
                    if len(content) > stop - start:
                        break
            if len(content) != stop - start:
                raise ConnectionError(f"{len(content)} of {stop - start} bytes")
            return content

        return patiently(source, attempt, name)

    return read
