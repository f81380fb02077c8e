"""The one exception that is shown to a user as a sentence instead of a traceback."""

from typing import Any


def printable(text: Any) -> str:
    """Text of unknown origin for a terminal: what is not printable, but for line feeds, shows its escape."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


class UserError(Exception):
    """Wrong input; the message names the file, the key or the value, and the cure, and steers no terminal."""

    def __str__(self) -> str:
        return printable(super().__str__())
