"""Where a number comes from, and whether it still stands: python -m scripts.audit COMMAND"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.audit import diff as differing
from scripts.audit import reproduce as reproducing
from scripts.audit import trace as tracing
from scripts.audit import verify as verifying
from scripts.audit._records import read_results, record_of
from scripts.run.errors import UserError, printable

RESULTS = Path("results")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Audit any number.")
Where = Annotated[
    str | None, typer.Option(help="Rows, by a condition of SQL, e.g. \"model == 'tiny-qwen-s' and seed == 42\".")
]


@app.command()
def trace(
    artifact: Annotated[Path, typer.Argument(help="A table, any other artifact, or its record.")],
    where: Where = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, as JSON.")] = False,
) -> None:
    """Tell what a number, an artifact or a sample goes back to."""
    found = tracing.trace(read_results(RESULTS), artifact, where)
    if as_json:
        print(json.dumps(found, indent=1, default=str))
    else:
        tracing.show(found, Console(highlight=False))


@app.command()
def verify(
    artifacts: Annotated[
        list[Path] | None, typer.Argument(help="What to verify, with all behind it; else all.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Trust files whose size and time are as when last read.")] = False,
    judge: Annotated[bool, typer.Option(help="Judge every output again, too.")] = False,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Judge without a sandbox what was judged without one.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Print every cause, not just the first.")] = False,
) -> None:
    """Say what was altered since it was made; exit 1 if anything was."""
    results = read_results(RESULTS)
    names = [record_of(results, path)[0] for path in artifacts or []]
    if judge:
        allow_unsafe(unsafe_code, "--judge", results.records.values())
    causes = verifying.verify(results, quick, judge, names)
    for cause in causes if every else causes[:1]:
        print(printable(cause))
    if causes[1:] and not every:
        print(f"and {len(causes) - 1:,} more (--all)")
    for note in verifying.notes(results):
        print(f"note: {printable(note)}")
    raise typer.Exit(1 if causes else 0)


@app.command()
def diff(
    one: Annotated[Path, typer.Argument(help="An artifact, its record, a table, or a results folder.")],
    other: Annotated[Path, typer.Argument(help="Another of the same.")],
    where: Where = None,
    other_where: Annotated[str | None, typer.Option(help="Row of the second; else as --where.")] = None,
) -> None:
    """Tell why two artifacts, results folders or rows differ; exit 1 if they do."""
    if where:
        found = differing.of_rows(one, where, other, other_where or where)
    elif all((path / "report").is_dir() for path in (one, other)):
        found = differing.of_folders(one, other)
    else:
        found = differing.of_artifacts(one, other)
    differing.show(found, Console(highlight=False))
    raise typer.Exit(1 if found else 0)


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    target: Annotated[Path, typer.Argument(help="Folder or zip file to write.")],
    checkpoints: Annotated[bool, typer.Option(help="Take models, checkpoints and datasets, too.")] = False,
) -> None:
    """Write a study as a Workflow Run RO-Crate."""
    from scripts.audit.export import export as write_crate

    write_crate(read_results(RESULTS), study, target, checkpoints)


@app.command()
def reproduce(
    table: Annotated[Path, typer.Argument(help="A table.")],
    folder: Annotated[Path, typer.Argument(help="Fresh folder to rebuild in.")],
    where: Annotated[str, typer.Option(help="Chooses one row.")],
    plan: Annotated[bool, typer.Option(help="Only print what would be run.")] = False,
    cores: Annotated[str, typer.Option(help="For snakemake.")] = "all",
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Judge without a sandbox what was judged without one.")
    ] = False,
) -> None:
    """Rebuild one row in a fresh folder and compare; exit 1 if it differs."""
    results = read_results(RESULTS)
    allow_unsafe(unsafe_code, "reproduce", results.records.values())
    name, row = reproducing.prepare(results, table, where, folder)
    for change in reproducing.changed_packages(results, name):
        print(printable(f"other package than recorded: {change}"))
    if plan:
        reproducing.run(folder, name, "--dry-run", "--quiet", "rules")
        print(printable(f"run it there: snakemake --configfile {reproducing.CONFIG} --cores all {name}"))
        return
    reproducing.run(folder, name, "--cores", cores, "--quiet", "host", "rules")
    values = reproducing.compare(folder, name, row)
    for column, (recorded, rebuilt) in values.items():
        said = f"{column}: {recorded} recorded, {rebuilt} rebuilt{'' if recorded == rebuilt else '  ← differs'}"
        print(printable(said))
    if any(recorded != rebuilt for recorded, rebuilt in values.values()):
        print(printable(f'see why: python -m scripts.audit diff {table} {folder / name} --where "{where}"'))
        raise typer.Exit(1)


def allow_unsafe(allowed: bool, what: str, records: Iterable[dict]) -> None:
    """Only who audits says that programs may run without a sandbox; the results may be anybody's.

    Raises:
        UserError: something was judged so, and it was not allowed.
    """
    for record in records:
        settings = record["parameters"].get("settings")
        if not allowed and isinstance(settings, dict) and settings.get("unsafe_code"):
            raise UserError(
                f"{min(record['outputs'])} was judged without a sandbox (unsafe_code), and {what} would run its "
                "programs so on this machine: add --unsafe-code if you trust every one of them"
            )


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
