"""The artefact that a device serves: switched at once, after a canary, and switched back.

    <serving>/releases/<sha256>/   artefacts, verified copies
    <serving>/current              link to the one that is served
    <serving>/previous             link to the one before, for `fedstill-node rollback`

A reader that resolves `current` once, as `fedstill-node predict` does, sees the old artefact
or the new one, never a mixture: links are made beside and renamed over, a release is complete
before a link names it, and the one before stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedstill.common.artefact import MANIFEST_FILE, list_artefact_files, read_artefact
from fedstill.common.datasets import Samples
from fedstill.common.errors import ArtefactError, DataError, UsageError
from fedstill.common.inference import predict_probabilities

CURRENT, PREVIOUS, RELEASES = "current", "previous", "releases"


@dataclass(frozen=True)
class Canary:
    """Labelled samples that a new artefact is tried on, and what it has to reach."""

    samples: Samples
    max_drop: float = 0.02
    """How much less accurate than the served artefact it may be, 0 to 1."""
    min_accuracy: float = 0.0


@dataclass(frozen=True)
class Release:
    """What is served now."""

    folder: Path
    accuracy: float | None
    """On the canary; None without one."""
    served_accuracy: float | None
    """What the artefact before it reached there."""


def install_artefact(artefact: Path, serving: Path, *, canary: Canary | None = None) -> Release:
    """Serves an artefact from now on, if it passes the canary.

    Args:
        artefact: Folder of the new artefact.
        serving: The device's serving folder; made where it is missing.
        canary: What it is tried on; None only verifies its digests and that it loads.

    Returns:
        The release that `current` names.

    Raises:
        ArtefactError: It is incomplete or altered, cannot run, or fails the canary; what was
            served before is still served.
        DataError: The canary does not fit the artefact.
    """
    release = _copy_release(artefact, serving)
    served = _target(serving / CURRENT)
    accuracy = served_accuracy = None
    try:
        if canary is not None:
            accuracy = _measure(release, canary.samples)
            served_accuracy = None if served is None else _measure(served, canary.samples)
            _judge(accuracy, served_accuracy, canary)
    except (ArtefactError, DataError):
        if release not in (served, _target(serving / PREVIOUS)):
            shutil.rmtree(release, ignore_errors=True)
        raise
    if served is not None and served != release:
        _link(serving, PREVIOUS, served)
    _link(serving, CURRENT, release)
    _sweep(serving)
    return Release(release, accuracy, served_accuracy)


def roll_back(serving: Path) -> Path:
    """Serves the artefact before the present one again, and keeps the present one as the one before.

    Args:
        serving: The device's serving folder.

    Returns:
        Folder of the release that is served now.

    Raises:
        UsageError: There is none before it.
        ArtefactError: The one before was altered.
    """
    current, previous = _target(serving / CURRENT), _target(serving / PREVIOUS)
    if current is None or previous is None:
        raise UsageError(f"{serving} holds no artefact before the present one; nothing was changed")
    read_artefact(previous)
    _link(serving, CURRENT, previous)
    _link(serving, PREVIOUS, current)
    return previous


def _copy_release(artefact: Path, serving: Path) -> Path:
    read_artefact(artefact)
    digest = hashlib.sha256((artefact / MANIFEST_FILE).read_bytes()).hexdigest()
    releases = serving / RELEASES
    release = releases / digest
    releases.mkdir(parents=True, exist_ok=True)
    if release.exists():
        return release
    staging = Path(tempfile.mkdtemp(dir=releases, prefix=".staging-"))
    try:
        for path in list_artefact_files(artefact):
            shutil.copyfile(path, staging / path.name)
        read_artefact(staging)  # a disk may return other bytes than it was given
        staging.chmod(0o755)
        staging.rename(release)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return release


def _measure(folder: Path, samples: Samples) -> float:
    if samples.y is None or not len(samples.y):
        raise DataError("the canary needs labelled samples; give a file with labels")
    artefact = read_artefact(folder)
    x = samples.x if artefact.encoder is None else artefact.encoder.encode(samples.x)
    probabilities = predict_probabilities(artefact.predict, x)
    if not np.isfinite(probabilities).all():
        raise ArtefactError(f"{folder} predicts values that are not finite; it is not served")
    return float(np.mean(probabilities.argmax(axis=1) == samples.y))


def _judge(accuracy: float, served_accuracy: float | None, canary: Canary) -> None:
    if accuracy < canary.min_accuracy:
        raise ArtefactError(
            f"the new artefact reaches {accuracy:.3f} on the canary, {canary.min_accuracy:.3f} is wanted;"
            " what was served is still served"
        )
    if served_accuracy is not None and accuracy < served_accuracy - canary.max_drop:
        raise ArtefactError(
            f"the new artefact reaches {accuracy:.3f} on the canary, the served one {served_accuracy:.3f};"
            " what was served is still served"
        )


def _target(link: Path) -> Path | None:
    return link.parent / link.readlink() if link.is_symlink() and link.exists() else None


def _link(serving: Path, name: str, release: Path) -> None:
    temporary = serving / f".{name}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(RELEASES) / release.name)
    temporary.replace(serving / name)


def _sweep(serving: Path) -> None:
    keep = {_target(serving / CURRENT), _target(serving / PREVIOUS)}
    for path in (serving / RELEASES).iterdir():
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)
