"""What is installed here, what lacks, and the command that brings it."""

import tomllib
from pathlib import Path

import pytest

import fedstill
from fedstill.common import installation
from fedstill.common.errors import UsageError
from fedstill.common.installation import (
    check_distributions,
    describe_versions,
    explain_missing,
    install_command,
    read_requirements,
    works_with,
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site-packages of its own, first on the path, and no checkout."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(installation, "PYPROJECT", tmp_path / "pyproject.toml")
    return tmp_path


def record(site, name, *lines):
    about = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    about.mkdir()
    head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 0.1.0", "Requires-Python: >=3.11"]
    (about / "METADATA").write_text("\n".join([*head, *lines]))


def test_the_version_in_code_is_that_of_the_distribution():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert fedstill.__version__ == project["version"]


def test_versions_begin_with_our_own():
    found = describe_versions("numpy", "torch")
    assert list(found) == ["fedstill", "numpy", "torch"]
    assert found["fedstill"] == fedstill.__version__


def test_two_distributions_in_one_environment_are_refused(site):
    record(site, "fedstill")
    record(site, "fedstill-device")
    with pytest.raises(UsageError, match="fedstill and fedstill-device are both installed") as refused:
        check_distributions()
    assert "pip uninstall fedstill fedstill-device" in str(refused.value)


def test_requirements_of_an_installed_package_are_those_that_pip_recorded(site):
    record(
        site,
        "fedstill",
        "Requires-Dist: numpy>=2.2",
        'Requires-Dist: torch<3,>=2; extra == "node"',
    )
    found = read_requirements()
    assert found.python == ">=3.11"
    assert found.by_extra == {"": ["numpy>=2.2"], "node": ["torch<3,>=2"]}


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "node"),
        ("google.protobuf", "node"),
        ("prometheus_client", "node"),
        ("torch_pruning", "node"),
        ("torchao.quantization", "edge"),
        ("flwr_datasets", "datasets"),
    ],
)
def test_a_missing_module_leads_to_the_extra_that_the_program_needs(module, extra):
    found = explain_missing(ModuleNotFoundError(name=module), extra="node")
    assert f"pip install 'fedstill[{extra}]'" in str(found)


def test_a_missing_package_of_the_base_leads_to_the_distribution():
    found = explain_missing(ModuleNotFoundError(name="zstandard"), extra="node")
    assert "pip install fedstill " in str(found)


def test_foreign_modules_are_not_explained():
    assert explain_missing(ModuleNotFoundError(name="mine"), extra="server") is None
    assert explain_missing(ModuleNotFoundError(), extra="server") is None


def test_hints_name_the_distribution_that_is_there(monkeypatch):
    monkeypatch.setattr(installation, "DISTRIBUTIONS", ("fedstill-device-not-there", "numpy"))
    assert install_command("node") == "pip install 'numpy[node]'"
    assert install_command() == "pip install numpy"


@pytest.mark.parametrize(
    ("coordinator", "node", "expected"),
    [
        ("0.2.0", "0.2.3", True),
        ("0.2.0", "0.1.0", True),  # devices are updated after the coordinator
        ("0.1.0", "0.2.0", True),
        ("0.3.0", "0.1.9", False),
        ("1.0.0", "0.9.0", False),
        ("0.2.0", "half a version", False),
    ],
)
def test_versions_a_minor_one_apart_work_together(coordinator: str, node: str, expected: bool) -> None:
    assert works_with(coordinator, node) is expected
