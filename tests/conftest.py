"""What all tests share: a home of their own, and a federation that takes seconds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedstill.common.config import Config, load_config
from tests.deployment import open_site

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# Ray's actors stand back for everything else, and beside other tests they would stand back for good.
os.environ.setdefault("RAY_worker_niceness", "0")

QUICK = (
    "teacher.num_epochs=6",
    "distill.num_epochs=4",
    "federation.num_nodes=4",
    "federation.num_rounds=2",
    "teacher.num_threads=1",
)


# What `make quick` leaves out besides tests marked slow: whole runs, deployments and killed processes,
# what trains and exports many students, what starts an interpreter for each import,
HEAVY_PLACES = (
    "chaos",
    "clients/schemes",
    "common/compressors",
    "common/models/test_export.py",
    "common/test_costs.py",
    "deploy",
    "docs/test_examples.py",
    "e2e",
    "server/api/test_entries.py",
    "server/compress",
    "server/deployment",
    "server/federation/test_strategy_answers.py",
    "server/federation/test_trials.py",
    "server/planner",
    "test_architecture.py",
)
# a browser, a Prometheus, Ray, and what takes long to make for a group of tests.
HEAVY_FIXTURES = {"browser", "prometheus", "ray_grid", "shipped_prometheus", "site"}
HEAVY_GROUPS = {"compare", "pte", "ray"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is not quick; a test need not know of it."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        groups = {mark.args[0] for mark in item.iter_markers("xdist_group")}
        fixtures = set(getattr(item, "fixturenames", ()))
        if any(map(place.is_relative_to, HEAVY_PLACES)) or fixtures & HEAVY_FIXTURES or groups & HEAVY_GROUPS:
            item.add_marker(pytest.mark.heavy)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps label caches and node stores of tests out of the user's."""
    home = tmp_path_factory.mktemp("home")
    previous = os.environ.get("FEDSTILL_HOME")
    os.environ["FEDSTILL_HOME"] = str(home)
    yield home
    if previous is None:
        os.environ.pop("FEDSTILL_HOME")
    else:
        os.environ["FEDSTILL_HOME"] = previous


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """Finds a program of the system; its absence skips a test on a laptop and fails it in CI."""

    def require(program: str) -> str:
        path = shutil.which(program)
        if path is None and os.environ.get("CI") == "true":
            pytest.fail(f"{program} has to be installed where CI=true")
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return require


@pytest.fixture(scope="session")
def quick_config() -> Config:
    """Digits, four nodes, two short rounds."""
    return load_config(overrides=QUICK)


@pytest.fixture(scope="session")
def quick_overrides() -> list[str]:
    """The same as arguments of the command line."""
    return [argument for item in QUICK for argument in ("--set", item)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a deployment in `tmp_path`; what is started with it ends with the test."""
    with open_site(tmp_path) as environment:
        yield environment
