"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Wrong input; the message names the file, the key or the value, and the cure."""
