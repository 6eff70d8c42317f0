"""The command line: answers on standard output, messages and progress on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import __version__
from ..errors import AdapterkitError, TrainingInterruptedError, is_out_of_memory
from .bench import app as bench
from .client import app as client
from .compare import compare
from .compile import compile_loops
from .compose import compose
from .convert import convert
from .cross_validate import cross_validate
from .data import app as data
from .drift import drift
from .evaluate import evaluate
from .export import export
from .group import CommandGroup
from .hub import pull, push
from .import_adapter import import_adapter
from .keys import keys
from .options import JsonOption, json_text
from .predict import predict
from .serve import serve
from .sign import sign, signing_key
from .store import inspect, list_adapters, verify
from .train import train
from .tune import tune

# Modules that need torch are imported inside the commands: --help must not wait for it.

UsageError: Any = typer.BadParameter.__base__
"""Click's error for a wrong option or argument; newer versions of Typer contain Click."""


class _Commands(CommandGroup):
    """Reports a user's error as one line and exits with code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # prints the help
            return super().parse_args(ctx, args)
        with _one_line_errors(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_line_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def _one_line_errors(ctx: Any) -> Iterator[None]:
    try:
        yield
        return
    except AdapterkitError as error:
        message = str(error)
    except UsageError as error:
        message = f"{error.format_message()} (see {(error.ctx or ctx).command_path} --help)"
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            message = (
                "there is too little memory: raise the limit of this process, or use less of it"
            )
        elif isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        else:
            raise
    except TrainingInterruptedError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted; no incomplete file was left.", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"Error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


app = typer.Typer(
    cls=_Commands,
    name="adapterkit",
    help="One frozen BERT, hundreds of task models: train, keep, swap and mix small adapters.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("adapterkit")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", help="Store for the three adapters.")] = Path(
        "quickstart"
    ),
    as_json: JsonOption = False,
) -> None:
    """Train three adapters on the embedded backbone, then answer one mixed batch.

    The adapters belong to three tenants and have three methods and three label sets, one of them
    Spanish. This takes a minute on two CPU cores and needs no network.
    """
    from .quickstart import print_quickstart, run_quickstart

    result, answers = run_quickstart(output)
    if as_json:
        typer.echo(json_text(result))
    else:
        print_quickstart(result, answers)


app.command()(train)
app.command()(cross_validate)
app.command()(compare)
app.command()(tune)
app.command()(evaluate)
app.command()(predict)
app.command("list")(list_adapters)
app.command()(inspect)
app.command()(drift)
app.command()(verify)
app.command("import")(import_adapter)
app.command()(convert)
app.command()(compose)
app.command()(export)
app.command()(push)
app.command()(pull)
app.command()(serve)
app.command()(keys)
app.command()(sign)
app.command("signing-key")(signing_key)
app.command("compile")(compile_loops)
app.add_typer(data)
app.add_typer(client)
app.add_typer(bench)
