"""What of FedStill is installed here, what it needs, and how to get what lacks.

There are two distributions of one import package: `fedstill`, and `fedstill-device`, which holds none
of the coordinator's code. Only one of them can be in an environment.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

import fedstill
from fedstill.common.errors import UsageError

DISTRIBUTIONS = ("fedstill", "fedstill-device")
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
"""Of a checkout; an installed package has none."""
# Where a package's import name is not that of its distribution.
_DISTRIBUTED_AS = {"google": "protobuf", "grpc": "grpcio", "sklearn": "scikit-learn", "PIL": "pillow"}


@dataclass(frozen=True)
class Requirements:
    """What the distribution asks for.

    Attributes:
        python: A version specifier, as ">=3.11".
        by_extra: Requirements as pip reads them, by extra; those without one are under "".
    """

    python: str
    by_extra: dict[str, list[str]]


def describe_versions(*libraries: str) -> dict[str, str]:
    """Says which FedStill runs here, and which of these libraries; raises where one is not installed."""
    return {"fedstill": fedstill.__version__, **{name: _library_version(name) for name in libraries}}


@functools.cache
def _library_version(name: str) -> str:
    return metadata.version(name)


def installed_distributions() -> list[str]:
    """Lists those of FedStill's distributions that are in this environment."""
    found = []
    for name in DISTRIBUTIONS:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


@functools.cache
def installed_version() -> str:
    """Says which version is installed here; inside an app bundle the code that runs may be another's."""
    found = installed_distributions()
    return metadata.version(found[0]) if found else fedstill.__version__


def works_with(version: str, other: str) -> bool:
    """Says whether two versions understand each other: the same major one, and a minor one apart at most."""
    try:
        first, second = Version(version), Version(other)
    except InvalidVersion:
        return False
    return first.major == second.major and abs(first.minor - second.minor) <= 1


def check_distributions() -> None:
    """Refuses an environment that holds both distributions.

    Raises:
        UsageError: It does; files of one lie over those of the other.
    """
    if len(found := installed_distributions()) > 1:
        raise UsageError(
            f"{' and '.join(found)} are both installed here, and files of one lie over those of the other:"
            f" pip uninstall {' '.join(found)}, then install the one that this machine needs"
        )


def install_command(extra: str = "") -> str:
    """Writes the command that brings an extra (none: the base) of the distribution that is installed here."""
    name = (installed_distributions() or [DISTRIBUTIONS[0]])[0]
    return f"pip install '{name}[{extra}]'" if extra else f"pip install {name}"


def read_requirements() -> Requirements:
    """Reads what the distribution asks for, from a checkout or from what pip recorded."""
    if PYPROJECT.is_file():
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        return Requirements(
            project["requires-python"], {"": project["dependencies"], **project["optional-dependencies"]}
        )
    found = installed_distributions()
    if not found:
        return Requirements("", {"": []})
    about = metadata.metadata(found[0])
    by_extra: dict[str, list[str]] = {"": []}
    for line in about.get_all("Requires-Dist", []):
        marked = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        by_extra.setdefault(marked[1] if marked else "", []).append(line.split(";")[0].strip())
    return Requirements(about["Requires-Python"], by_extra)


def explain_missing(error: ModuleNotFoundError, *, extra: str) -> UsageError | None:
    """Turns the lack of a package into what a user can do about it.

    Args:
        error: What an import raised.
        extra: The extra that brings all that the program's commands need, as "server".

    Returns:
        The error to show; None where the package is not one that FedStill asks for: then it is a bug.
    """
    package = (error.name or "").partition(".")[0]
    wanted = _normalise(_DISTRIBUTED_AS.get(package, package))
    homes = [
        home
        for home, lines in read_requirements().by_extra.items()
        if home != "dev" and any(_normalise(re.split(r"[^\w.-]", line)[0]) == wanted for line in lines)
    ]
    if not homes:
        return None
    best = homes[0] if homes[0] not in ("node", "server") else extra
    return UsageError(
        "this command needs more than this installation has:"
        f" {install_command(best)} (there is no module {error.name})"
    )


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
