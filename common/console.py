"""How both commands report a user's mistake: one line, an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer
from click.exceptions import Abort, ClickException, NoSuchCommand
from rich.console import Console

from fedstill.common.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, FedStillError


def run_command(app: typer.Typer, *, name: str) -> int:
    """Runs a command line and turns what went wrong into one line and an exit code.

    Args:
        app: The commands.
        name: Name of the program, as in messages.

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
        result = app(standalone_mode=False)
    except FedStillError as error:
        return fail(" ".join(str(error).split()), error.exit_code)
    except NoSuchCommand as error:  # Typer names the nearest command already, Click would again
        return fail(error.message, EXIT_USAGE)
    except ClickException as error:
        return fail(error.format_message(), EXIT_USAGE)
    except (KeyboardInterrupt, Abort):
        return fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if os.environ.get("FEDSTILL_DEBUG"):
            raise
        place = f" {error.filename}" if error.filename else ""
        return fail(f"{error.strerror or error}{place}", EXIT_FAILED)
    if result == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
        return fail("interrupted", EXIT_INTERRUPTED)
    return result if isinstance(result, int) else EXIT_DONE


def exit_with(main: Callable[[], int]) -> None:
    """Ends the process with a command's exit code."""
    sys.exit(main())
