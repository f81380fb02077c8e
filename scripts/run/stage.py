"""What every stage's command line shares: arguments from the signature, errors in words, a record at the end.

    @stage
    def main(model: Input, checkpoint: Output, settings: Settings) -> None: ...

The annotation of a parameter says both how it is parsed and what it is to the provenance record.
"""

import errno
import functools
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.planned import check_planned

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Role(Enum):
    INPUT, OUTPUT, PARAMETER = range(3)


Input = Annotated[Path, typer.Option(exists=True), Role.INPUT]
Inputs = Annotated[list[Path], typer.Argument(exists=True), Role.INPUT]
Output = Annotated[Path, typer.Option(), Role.OUTPUT]
Outputs = Annotated[list[Path], typer.Argument(), Role.OUTPUT]
Parameter = Annotated[str, typer.Option(), Role.PARAMETER]
Settings = Annotated[dict, typer.Option(parser=json.loads, metavar="JSON"), Role.PARAMETER]


def stage(main: Callable[..., None]) -> typer.Typer:
    """Make a stage's `main` a command: the first output names the record, which is written when `main` returns.

    A `UserError`, or a disk that cannot be written, ends the process with status 1 and a message, no traceback and
    no record.
    """
    hints = get_type_hints(main, include_extras=True)
    roles = {
        name: next(a for a in get_args(hints[name]) if isinstance(a, Role))
        for name in inspect.signature(main).parameters
    }
    module = inspect.unwrap(main).__globals__["__spec__"].name

    def of(role: Role, arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if roles[name] is role}

    @functools.wraps(main)
    def command(**arguments: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
        inputs, outputs = (
            [path for value in of(role, arguments).values() for path in (value if isinstance(value, list) else [value])]
            for role in (Role.INPUT, Role.OUTPUT)
        )
        try:
            check_planned(module)
            record.start(module, inputs, outputs, of(Role.PARAMETER, arguments))
            main(**arguments)
            record.finish()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except Exception as error:
            # Arrow, safetensors and Python raise different types for a disk that is full; their words are the same.
            if not any(os.strerror(code) in str(error) for code in DISK_ERRORS):
                raise
            cure = "make room there or allow writing, and run again; what is in results/store is kept"
            print(f"error: {outputs[0]} could not be written: {error}: {cure}", file=sys.stderr)
            raise typer.Exit(1) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    return app
