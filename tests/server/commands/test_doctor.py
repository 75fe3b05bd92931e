"""What the doctor finds on this machine and on ones that are worse off."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from fedstill.common import installation
from fedstill.common.config import Config, load_config
from fedstill.server.commands import doctor
from fedstill.server.commands.doctor import Finding, print_findings, run_doctor
from fedstill.server.pki.authority import init_authority


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSTILL_HOME", str(tmp_path / "home"))


def find(name: str, config: Config | None = None) -> Finding:
    (finding,) = [finding for finding in run_doctor(config) if finding.name == name]
    return finding


def with_values(*overrides: str) -> Config:
    return load_config(overrides=overrides)


def test_this_machine_can_run_the_default() -> None:
    assert [finding for finding in run_doctor(None) if finding.ok is False] == []


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    run_doctor(None)

    assert list(tmp_path.iterdir()) == []


def test_every_problem_has_a_remedy() -> None:
    assert [
        finding.name for finding in run_doctor(None) if finding.ok is not True and not finding.remedy
    ] == []


def test_versions_that_were_found_are_named() -> None:
    assert find("libraries").detail.count("torch 2.") == 1


def test_a_library_outside_its_pin_fails_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.9" if name == "flwr" else version(name))

    finding = find("library")

    assert finding.ok is False
    assert finding.detail.startswith("flwr 9.9, flwr<1.42,>=1.41")
    assert finding.remedy == "pip install 'flwr<1.42,>=1.41'"


def test_an_installed_package_is_held_to_its_own_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "site" / "fedstill-0.1.0.dist-info"
    about.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.4",
        "Name: fedstill",
        "Version: 0.1.0",
        "Requires-Python: >=3.11",
        "Requires-Dist: numpy>=2.2",
        'Requires-Dist: fedstill[node]; extra == "server"',
        'Requires-Dist: torch<1; extra == "node"',
        'Requires-Dist: nothing-like-it; extra == "dev"',
    ]
    (about / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(about.parent))
    monkeypatch.setattr(installation, "PYPROJECT", tmp_path / "site" / "fedstill" / "pyproject.toml")

    assert find("library").detail.endswith("torch<1 is needed")
    assert find("libraries").detail.startswith("1 of 2")


def test_a_protobuf_older_than_the_generated_code_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "5.29.0" if name == "protobuf" else version(name)
    )

    assert find("protobuf").ok is False


@pytest.mark.parametrize("section", ["exchange", "monitoring"])
def test_a_taken_port_fails(section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = find(f"{section} port", with_values(f"{section}.port={port}"))

    assert finding == Finding(
        f"{section} port",
        False,
        f"127.0.0.1:{port} is taken",
        f"set {section}.port to another port, or to 0 for a free one",
    )


def test_one_port_for_two_services_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = with_values(f"exchange.port={port}", f"monitoring.port={port}")

    assert find("monitoring port", config).ok is False


def test_an_address_of_another_machine_fails() -> None:
    finding = find("exchange port", with_values("exchange.host=192.0.2.1"))

    assert (finding.ok, finding.remedy) == (False, "set exchange.host to an address of this machine")


def test_missing_data_fails_and_names_the_nearest() -> None:
    finding = find("data", with_values("data.source=digit"))

    assert finding.ok is False
    assert "did you mean 'digits'?" in finding.detail


def test_readable_data_is_counted() -> None:
    assert "of 10 classes (image)" in find("data", with_values("data.source=digits")).detail


def test_more_actors_than_cores_is_a_warning() -> None:
    finding = find("cores", with_values("federation.num_actors=10000", "federation.num_nodes=10000"))

    assert finding.ok is None


def test_too_little_memory_is_a_warning() -> None:
    assert find("memory", with_values("federation.num_actors=1000000")).ok is None


def test_a_cache_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    finding = find("cache", with_values(f"exchange.cache_dir={tmp_path / 'file' / 'cache'}"))

    assert finding.ok is False
    assert finding.detail == f"{tmp_path / 'file'} is no folder"


def test_a_missing_checkpoint_fails() -> None:
    assert find("teacher", with_values("teacher.checkpoint=none.safetensors")).ok is False


def test_findings_print_one_line_each_with_the_remedy_of_what_is_wrong() -> None:
    console = Console(file=io.StringIO(), width=40)
    findings = [
        Finding("ray", True, "2.55.1 imports", "unused"),
        Finding("memory", None, "1 GB\navailable", "close other programs"),
        Finding("port", False, "127.0.0.1:80 [needs] privileges " + "x" * 60, "take 1024 or above"),
    ]

    print_findings(findings, console)

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "ok    ray     2.55.1 imports",
        "warn  memory  1 GB available; close other programs",
        f"FAIL  port    127.0.0.1:80 [needs] privileges {'x' * 60}; take 1024 or above",
    ]


def test_plaintext_to_other_machines_fails_unless_it_is_wanted() -> None:
    assert find("transport").detail == "plaintext, on this machine only"
    assert find("transport", with_values("exchange.host=0.0.0.0")).ok is False
    wanted = with_values("exchange.host=0.0.0.0", "exchange.allow_insecure=true")
    assert find("transport", wanted).ok is None


@pytest.mark.parametrize(("days", "ok"), [(365, True), (10, None)])
def test_certificates_that_end_soon_are_a_warning(tmp_path: Path, days: int, ok: bool | None) -> None:
    init_authority(tmp_path / "ca", days=days)
    finding = find("transport", with_values(f"exchange.certificates_dir={tmp_path / 'ca'}"))
    assert finding.ok is ok
    assert f"lasts {days - 1} days" in finding.detail


def test_missing_certificates_fail(tmp_path: Path) -> None:
    assert find("transport", with_values(f"exchange.certificates_dir={tmp_path}")).ok is False
