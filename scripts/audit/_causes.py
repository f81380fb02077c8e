"""What `verify` may find wrong, and how far it has come."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import track

ALTERED, MISSING = "altered", "missing"
OTHER_CODE, CHANGED = "made by other code than is here", "made from inputs that have changed since"
NO_RECORD = "record missing"
T = TypeVar("T")


@dataclass(frozen=True)
class Cause:
    """What is wrong (one of the five kinds above), with which artifact or record, and in which respect."""

    kind: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.why}"


def progress(work: Iterable[T], what: str, total: int) -> Iterable[T]:
    return track(work, what, total, console=Console(stderr=True), transient=True)
