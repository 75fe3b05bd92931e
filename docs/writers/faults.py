"""The page of errors and exit codes."""

from __future__ import annotations

from docs.writers.markdown import code, describe, escape, first_line, page, table
from fedstill.common import errors


def write_errors() -> str:
    """Writes the tree of errors and what the commands return for each."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FedStillError)
    ]
    codes = [
        (errors.EXIT_DONE, "done"),
        (errors.EXIT_FAILED, "failed while it ran"),
        (errors.EXIT_USAGE, "wrong usage, configuration or data: what to change stands in one line"),
        (errors.EXIT_INTERRUPTED, "interrupted; the same command, or its `--resume`, goes on"),
    ]
    lines = [
        *describe(errors.__doc__ or ""),
        "",
        "## Exit codes",
        "",
        *table(("code", "meaning"), [(code(str(number)), text) for number, text in codes]),
        "",
        "## Errors",
        "",
        *table(
            ("error", "is a", "exit code", "what happened"),
            [
                (
                    code(kind.__name__),
                    code(kind.__base__.__name__ if kind.__base__ else ""),
                    str(kind.exit_code),
                    escape(first_line(kind)),
                )
                for kind in kinds
            ],
        ),
    ]
    return page("Errors and exit codes", "common/errors.py", *lines)
