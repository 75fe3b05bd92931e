"""What configurations can name here, and where each is from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedstill.common.codecs import CODECS
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.datasets import DATASETS
from fedstill.common.errors import unknown_name
from fedstill.common.losses import FEATURE_LOSSES, LOSSES
from fedstill.common.models import MODELS
from fedstill.common.partitioners import PARTITIONERS
from fedstill.common.registry import Registry
from fedstill.server.aggregators import AGGREGATORS
from fedstill.server.schemes import SCHEMES

KINDS: dict[str, Registry[Any]] = {
    registry.group.removeprefix("fedstill."): registry
    for registry in (
        AGGREGATORS,
        CODECS,
        DATASETS,
        FEATURE_LOSSES,
        LOSSES,
        MODELS,
        PARTITIONERS,
        EXPORTERS,
        SCHEMES,
    )
}
"""By the name of their group of entry points, `fedstill.KIND`."""


def list_known(kind: str | None) -> Iterator[str]:
    """Lists what is known of a kind, or of all, in one line each; nothing of it is loaded.

    Args:
        kind: A name of `KINDS`; None lists all, each line with its kind before it.

    Yields:
        Lines of name and origin.

    Raises:
        ConfigError: An unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    chosen = KINDS if kind is None else {kind: KINDS[kind]}
    rows = [(name, known) for name, registry in chosen.items() for known in registry.known()]
    widths = [max(len(name) for name, _ in rows), max(len(known.name) for _, known in rows)]
    for name, known in rows:
        before = f"{name:<{widths[0]}}  " if kind is None else ""
        yield f"{before}{known.name:<{widths[1]}}  {known.origin}"
