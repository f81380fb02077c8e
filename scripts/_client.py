"""What huggingface_hub asks the hub with, wary of the answers."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.utils._http import default_client_factory

from scripts.run.errors import UserError

ANSWER_LIMIT = 64 << 20  # bytes of an answer that is no file; a listing of 100,000 files has some 20 MB
SECONDS = 30  # without a byte


class _Counted(httpx2.SyncByteStream):
    """The bytes of an answer, up to a limit."""

    def __init__(self, stream: httpx2.SyncByteStream, address: httpx2.URL) -> None:
        self.stream, self.address = stream, address

    def __iter__(self) -> Iterator[bytes]:
        left = ANSWER_LIMIT
        for chunk in self.stream:
            left -= len(chunk)
            if left < 0:
                raise UserError(f"{self.address.host} answers with more than {ANSWER_LIMIT >> 20} MiB: no hub does")
            yield chunk

    def close(self) -> None:
        self.stream.close()


def _keep_token(request: httpx2.Request) -> None:
    """Show the token to the hub's own origin only: an answer may name the next page anywhere."""
    hub = httpx2.URL(HfApi().endpoint)
    if (request.url.scheme, request.url.host, request.url.port) != (hub.scheme, hub.host, hub.port):
        request.headers.pop("Authorization", None)


def _check_answer(response: httpx2.Response) -> None:
    """Bound whatever is no file, and unpack nothing: some KB would become as many GB."""
    if (encoding := response.headers.get("Content-Encoding") or "identity") != "identity":
        response.close()
        raise UserError(f"{response.url.host} answers in {encoding!r:.40}, which it was not asked for: see HF_ENDPOINT")
    if not response.is_success or response.url.path.startswith("/api/"):
        response.stream = _Counted(response.stream, response.url)


def client() -> httpx2.Client:
    """huggingface_hub's own client, which shows the token only to the hub, bounds answers and unpacks none.

    Raises, as it is used:
        UserError: an answer is longer than any hub's, or compressed.
    """
    found = default_client_factory()
    found.headers["Accept-Encoding"] = "identity"
    found.timeout = httpx2.Timeout(SECONDS)
    hooks = found.event_hooks
    found.event_hooks = {
        "request": [*hooks["request"], _keep_token],
        "response": [*hooks["response"], _check_answer],
    }
    return found
