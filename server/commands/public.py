"""`fedstill teacher public`: the public samples, for whoever labels them elsewhere."""

from __future__ import annotations

from pathlib import Path

from fedstill.common.config import Config
from fedstill.common.datasets import load_dataset, split_dataset
from fedstill.common.errors import UsageError
from fedstill.server.exchange.given_labels import write_public
from fedstill.server.schemes import get_scheme


def export_public(config: Config, folder: Path) -> list[Path]:
    """Writes the public samples of a configuration's run in order, with their digest.

    Args:
        config: The run's configuration; its data, splits and seed decide.
        folder: Where; made.

    Returns:
        What was written.

    Raises:
        UsageError: Configuration or data are wrong, the scheme has no public set, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: expected a folder, {folder} is a file")
    if not get_scheme(config.federation.scheme).uses_public:
        raise UsageError(f"the scheme {config.federation.scheme} has no public set; take teacher")
    dataset = load_dataset(config.data, seed=config.seed)
    splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=config.seed)
    return write_public(dataset, splits, folder)
