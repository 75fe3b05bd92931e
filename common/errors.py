"""Every error that FedStill raises on purpose.

The message of each says what was expected, what came and what to do; the command
line prints it as one line, without a traceback.

FedStillError                exit 1  something failed while running
├── UsageError               exit 2  the user can mend it: wrong usage, configuration or data
│   ├── ConfigError                  a key, a name or a value of the configuration
│   ├── DataError                    a data file or its content
│   └── CheckpointError              a file of weights that does not fit the model
├── ExchangeError            exit 1  labels, samples or uploads could not be moved
│   ├── DigestError                  bytes that are not those that were announced
│   ├── AccessError                  a certificate, an identity or a right that is missing or refused
│   ├── NonFiniteError               an upload that holds NaN or infinity
│   └── NotPublishedError            a label set or array that the store does not hold
├── ArtefactError            exit 2  an artefact that is incomplete, altered or of a foreign format
└── RunError                 exit 1  a federation that could not go on
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class FedStillError(Exception):
    """Root of the tree above; `exit_code` is what a command returns for it."""

    exit_code = EXIT_FAILED


class UsageError(FedStillError):
    """Wrong usage, configuration or data."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A key, a name or a value of the configuration."""


class DataError(UsageError):
    """A data file or its content."""


class CheckpointError(UsageError):
    """Weights that do not fit the model that they are meant for."""


class ExchangeError(FedStillError):
    """Labels, samples or uploads could not be moved."""


class DigestError(ExchangeError):
    """Bytes that are not those that were announced."""


class BusyError(ExchangeError):
    """A service that has no room for one more call of this node."""


class AccessError(ExchangeError):
    """A certificate, an identity or a right that is missing or refused."""


class NonFiniteError(ExchangeError):
    """An upload that holds NaN or infinity."""


class NotPublishedError(ExchangeError):
    """A label set or array that the store does not hold."""


class ArtefactError(FedStillError):
    """An artefact that is incomplete, altered or of a foreign format."""

    exit_code = EXIT_USAGE


class RunError(FedStillError):
    """A federation that could not go on."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Builds the error for a name that a registry does not hold.

    Args:
        kind: What the name should have named, as "loss".
        name: What came.
        known: The names that the registry holds.

    Returns:
        The error; it lists the known names and says which is the nearest.
    """
    names = sorted(known)
    hint = near_name(name, names) or "."
    return ConfigError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}.")


def near_name(name: str, known: Iterable[str]) -> str:
    """Says which of the known names is the nearest, as "; did you mean 'kl'?"; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
