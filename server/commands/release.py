"""What `fedstill fleet release` signs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fedstill.common.config import load_config
from fedstill.common.errors import UsageError
from fedstill.common.modules import looking_in
from fedstill.server.deployment.flower_app import bundle_app, write_app


def read_app(config: Path | None, app: Path | None) -> bytes:
    """Reads an app's bundle, or makes that of this installation.

    Args:
        config: The run's configuration, whose modules go along; None: the defaults.
        app: A bundle that a coordinator left; None: make it.

    Returns:
        Flower's bundle.

    Raises:
        UsageError: Both were given, or the bundle cannot be read.
        ConfigError: The configuration is wrong.
    """
    if app is None:
        beside = [] if config is None else [config.parent]
        with tempfile.TemporaryDirectory() as home, looking_in(*beside):
            write_app(Path(home), load_config(config))
            return bundle_app(Path(home))
    if config is not None:
        raise UsageError("give a configuration or --app, not both: a bundle holds its modules already")
    try:
        return app.read_bytes()
    except OSError as error:
        raise UsageError(f"--app: cannot read {app}: {error.strerror}") from None
