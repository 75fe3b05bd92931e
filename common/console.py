"""How both commands report a user's mistake: one line, an exit code, no traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

import fedstill
from fedstill.common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, FedStillError
from fedstill.common.installation import check_distributions, explain_missing

# Typer raises click's errors, or from 0.29 on those of a copy of its own: this is what both call UsageError.
_WrongUsage: type[typer.BadParameter] = typer.BadParameter.__mro__[1]


def print_version(context: typer.Context, is_wanted: bool) -> None:
    """Callback of `--version`: prints it and ends the program."""
    if is_wanted:
        typer.echo(f"{context.find_root().info_name} {fedstill.__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and end")
]


def run_command(app: typer.Typer, *, name: str, extra: str) -> int:
    """Runs a command line and turns what went wrong into one line and an exit code.

    Args:
        app: The commands.
        name: Name of the program, as in messages.
        extra: The extra of the distribution that brings what all of its commands need.

    Returns:
        0 done, 1 failed, 2 wrong usage, configuration or data, 130 interrupted.
    """
    errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def fail(text: str, code: int) -> int:
        if not text:  # a bare command has printed its help already
            return code
        errors.print(f"[bold red]{name}:[/] ", end="")
        errors.print(text, markup=False)
        return code

    try:
        check_distributions()
        result = app(prog_name=name, standalone_mode=False)
    except FedStillError as error:
        return fail(_as_line(error), error.exit_code)
    except _WrongUsage as error:
        # Where Typer has named the nearest command, Click would name it again.
        is_told = "Did you mean" in error.message
        return fail(error.message if is_told else error.format_message(), EXIT_USAGE)
    except ModuleNotFoundError as error:
        missing = explain_missing(error, extra=extra)
        if missing is None or os.environ.get("FEDSTILL_DEBUG"):
            raise
        return fail(_as_line(missing), missing.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if os.environ.get("FEDSTILL_DEBUG"):
            raise
        place = f" {error.filename}" if error.filename else ""
        return fail(f"{error.strerror or error}{place}", EXIT_FAILED)
    if result == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
        return fail("interrupted", EXIT_INTERRUPTED)
    return result if isinstance(result, int) else EXIT_DONE


def _as_line(error: FedStillError) -> str:
    return " ".join(str(error).split())


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM end what runs as Ctrl-C does, so that it cleans up; for the main thread."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def exit_with(main: Callable[[], int]) -> None:
    """Ends the process with a command's exit code."""
    sys.exit(main())
