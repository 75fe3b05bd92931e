"""The reference pages, written from the code: `make generate`; a test compares them."""

from collections.abc import Callable

from docs.writers.commands import write_commands
from docs.writers.configuration import write_configuration
from docs.writers.faults import write_errors
from docs.writers.protos import write_protos
from docs.writers.public_names import write_python
from docs.writers.records import write_summary
from docs.writers.registries import write_registries
from fedstill.server.metrics.catalogue import render_table

PAGES: dict[str, Callable[[], str]] = {
    "configuration": write_configuration,
    "commands": write_commands,
    "python": write_python,
    "registries": write_registries,
    "summary": write_summary,
    "metrics": render_table,
    "protos": write_protos,
    "errors": write_errors,
}
"""What writes `docs/reference/NAME.md`, by name."""
