"""The Flower app that a coordinator hands to its SuperLink: the package that runs here, in its own folder.

    <home>/app/pyproject.toml  name, version, components, and every key that a run may set
    <home>/app/fedstill/       the code, with real folders: Flower's bundles take no links
    <home>/app/modules/        modules of the user's that the run's configuration names, if it names any

SuperLink and SuperNodes unpack the bundle and put it first on the path, so that the coordinator's
code runs everywhere, whatever FedStill is installed there.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from fnmatch import fnmatch
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_disk

import fedstill
from fedstill.common.app_signature import APP_SIGNATURE
from fedstill.common.config import Config, Scalar, defaults, flatten, list_references
from fedstill.common.modules import BUNDLE_FOLDER, copy_files

PACKAGE = Path(fedstill.__file__).parent
SHIPPED = ("*.py", "*.toml", "*.json")
COMPONENTS = {"serverapp": "fedstill.server.app:app", "clientapp": "fedstill.clients.app:app"}


def run_config() -> dict[str, Scalar]:
    """Lists every key that a run may set, with its default; those of the launch itself come last."""
    return defaults() | {"run.dir": "", "run.id": "", "run.resume": False, APP_SIGNATURE: ""}


def run_settings(config: Config, run_dir: Path, *, resume: bool, signature: str) -> dict[str, Scalar]:
    """Gives what a run is started with.

    Args:
        config: Its configuration.
        run_dir: Its folder.
        resume: Go on with what is there.
        signature: The authority's, of the app; empty: none.
    """
    launch: dict[str, Scalar] = {
        "run.dir": str(run_dir.resolve()),
        "run.id": run_dir.name,
        "run.resume": resume,
    }
    return flatten(config) | launch | {APP_SIGNATURE: signature}


def app_folder(home: Path) -> Path:
    """Says where a coordinator's home holds the app."""
    return home / "app"


def write_app(home: Path, config: Config) -> Path:
    """Writes the app into a coordinator's home, over an older one.

    Args:
        home: The coordinator's folder; made.
        config: The run's configuration, whose modules go along: devices take no others.

    Returns:
        The app's folder.
    """
    home.mkdir(parents=True, exist_ok=True)
    folder = app_folder(home)
    with tempfile.TemporaryDirectory(dir=home, prefix=".app.") as name:
        fresh = Path(name) / "app"
        shutil.copytree(PACKAGE, fresh / PACKAGE.name, ignore=_unshipped)
        copies = copy_files(list_references(config), fresh / BUNDLE_FOLDER)
        (fresh / "pyproject.toml").write_text(app_pyproject(has_modules=bool(copies)), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return folder


def bundle_app(home: Path) -> bytes:
    """Makes Flower's bundle of the app in a coordinator's home; the same app gives the same bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower names a pattern by its old name
        return build_fab_from_disk(app_folder(home))


def app_pyproject(*, has_modules: bool = False) -> str:
    """Writes what Flower reads of an app; `has_modules`: it holds some of the user's."""
    shipped = [f"fedstill/**/{pattern}" for pattern in SHIPPED]
    app = {
        "publisher": "fedstill",
        "fab-include": [*shipped, f"{BUNDLE_FOLDER}/**/*.py"] if has_modules else shipped,
        "components": COMPONENTS,
        "config": run_config(),
    }
    project = {
        "name": "fedstill",
        "version": fedstill.__version__,
        "description": "Federated distillation",
        "license": "Apache-2.0",
    }
    return tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})


def _unshipped(folder: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name == "__pycache__"
        or not ((Path(folder) / name).is_dir() or any(fnmatch(name, pattern) for pattern in SHIPPED))
    ]
