"""The house's rules: who may import whom, and what a device has to install."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedstill.common.installation import read_requirements

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["clients", "common", "protos", "server"]


def test_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run_blocked(statement: str, blocked: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n{statement}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    ["fedstill.clients.app", "fedstill.clients.tasks", "fedstill.clients.labels", "fedstill.common.training"],
)
def test_nodes_run_without_the_servers_extra(module: str) -> None:
    done = run_blocked(f"import {module}", ["ray", "prometheus_client", "matplotlib", "sklearn", "mlxtend"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "fedstill.clients.predict",
        "fedstill.clients.cli",
        "fedstill.clients.bench",
        "fedstill.server.cli",
        "fedstill.server.commands.doctor",
    ],
)
def test_predict_runs_on_the_base_install(module: str) -> None:
    heavy = ["torch", "flwr", "grpc", "google.protobuf", "onnx", "ray", "sklearn", "mlxtend", "safetensors"]
    heavy += ["cryptography", "psutil"]
    done = run_blocked(f"import {module}", heavy)
    assert done.returncode == 0, done.stderr


def test_reading_the_configuration_takes_no_torch() -> None:
    done = run_blocked("import fedstill.server.cli, fedstill.common.config", ["torch", "ray"])
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_by_its_folders_name() -> None:
    # In a checkout `server.x` would be found beside `fedstill.server.x`: two modules, two classes each.
    # ruff bans the import; this sees names in strings too.
    program = f"""
import importlib, pkgutil, sys
import fedstill
for module in pkgutil.walk_packages(fedstill.__path__, "fedstill."):
    if not module.name.endswith(("__main__", "protos.generate")):
        importlib.import_module(module.name)
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({FOLDERS!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_everything_that_is_imported_is_asked_for() -> None:
    # Also what another distribution happens to bring today: it may bring something else tomorrow.
    homes = metadata.packages_distributions()
    asked = {
        canonicalize_name(Requirement(line).name)
        for extra, lines in read_requirements().by_extra.items()
        if extra != "dev"
        for line in lines
    }
    imported = {
        name.partition(".")[0]
        for folder in ("common", "clients", "server", "protos/fedstill")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = imported - set(sys.stdlib_module_names) - {"fedstill"}
    assert "numpy" in foreign
    unasked = {name for name in foreign if asked.isdisjoint(map(canonicalize_name, homes.get(name, [name])))}
    assert not unasked


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="groups are for tests side by side")
@pytest.mark.xdist_group("any")
def test_tests_of_a_group_are_kept_on_one_worker(request: pytest.FixtureRequest) -> None:
    # Where pytest and xdist do not fit, groups are passed over without a word, and each worker starts Ray.
    assert request.node.nodeid.endswith("@any")
