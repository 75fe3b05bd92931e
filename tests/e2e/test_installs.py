"""What pip makes of us on a fresh Python without constraints, beside a user's own server.py and common/."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import pytest

import fedstill
from tests.deployment import find_run, free_port, started, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deployment,
    pytest.mark.xdist_group("deployment-2"),
    pytest.mark.timeout(600),  # the first test that needs them waits for pip
]
ROOT = Path(__file__).resolve().parents[2]
MAX_BASE_BYTES = 250 * 2**20
MAX_HELP_SECONDS = 0.6
BRIEF = {
    "data.source": "digits.npz",
    "teacher.num_epochs": 5,
    "distill.num_epochs": 3,
    "federation.num_rounds": 1,
    "federation.control_fraction": 0,
    "monitoring.quality_nodes": 0,
}
SETTINGS = [word for key, value in BRIEF.items() for word in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Place:
    """A fresh virtual environment, and the user's folder in which its programs run."""

    bin: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        # Not the checkout's; the user's files are found before anything else.
        own = {"PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        return {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"} | own

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / program), *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    def pip(self, *arguments: object) -> None:
        done = self.run("python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist of a checkout, the wheel that the sdist makes, and the devices' wheel."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "checkout"
    source.mkdir()
    for name in ("fedstill", "common", "clients", "server", "protos"):
        copytree(ROOT / name, source / name, symlinks=True, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        copy(ROOT / name, source)

    def build(*command: object, cwd: Path = source) -> None:
        words = [sys.executable, *map(str, command)]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    wheel = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir")
    build("-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})")
    (sdist,) = folder.glob("*.tar.gz")
    build(*wheel, folder / "wheel", source)
    build(*wheel, folder / "again", sdist)
    device = "from device_wheel import Path, build_wheel, sys; build_wheel(Path(sys.argv[1]), isolated=False)"
    build("-c", device, folder / "device", cwd=ROOT / "deploy" / "device")
    return {name: next((folder / name).glob("*.whl")) for name in ("wheel", "again", "device")}


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "common").mkdir()
    for name in ("server.py", "clients.py", "protos.py", "common/__init__.py"):
        (folder / name).write_text(f"raise RuntimeError('the user has a {name}')\n")
    copy(digits, folder / "digits.npz")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of scikit-learn's digits, which the extra `server` does not bring."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=images.reshape(-1, 8, 8)[:900].astype(np.uint8), y=labels[:900])
    return path


@pytest.fixture(scope="module")
def make_place(tmp_path_factory: pytest.TempPathFactory, user_folder: Path) -> Callable[[str], Place]:
    def make(name: str) -> Place:
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        return Place(folder / "bin", user_folder)

    return make


@pytest.fixture(scope="module")
def base(make_place: Callable[[str], Place], dist: dict[str, Path]) -> Place:
    place = make_place("base")
    place.pip("install", dist["wheel"])
    return place


@pytest.fixture(scope="module")
def server(make_place: Callable[[str], Place], dist: dict[str, Path]) -> Place:
    place = make_place("server")
    # An unpinned torch may be a CUDA build of gigabytes. What is imported is compiled by itself.
    place.pip("install", "--no-compile", "torch==2.13.0", f"{dist['wheel']}[server]")
    return place


@pytest.fixture(scope="module")
def run_dir(server: Place) -> Path:
    """A whole small federation on Ray."""
    words = ("--set", "federation.num_nodes=2", "--run-dir", "run")
    done = server.run("fedstill", "simulate", *SETTINGS, *words)
    assert done.returncode == 0, done.stderr
    return server.folder / "run"


def test_the_sdist_makes_the_same_wheel(dist: dict[str, Path]) -> None:
    first, again = zipfile.ZipFile(dist["wheel"]), zipfile.ZipFile(dist["again"])
    assert sorted(first.namelist()) == sorted(again.namelist())
    for name in first.namelist():
        assert name.endswith("/RECORD") or first.read(name) == again.read(name), name


def test_the_wheel_holds_all_that_is_no_code(dist: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(dist["wheel"]).namelist())
    kept = (".js", ".css", ".html", ".json", ".proto", ".toml", ".typed", ".svg", ".ico")
    wanted = {
        f"fedstill/{path.relative_to(ROOT)}"
        for folder in ("common", "clients", "server", "protos")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kept
    }
    assert len(wanted) > 30
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedstill"}


def test_the_base_is_small_and_answers_at_once(base: Place) -> None:
    size = sum(path.lstat().st_size for path in base.bin.parent.rglob("*") if path.is_file())
    assert size <= MAX_BASE_BYTES
    for program in ("fedstill", "fedstill-node"):
        assert base.run(program, "--version").stdout == f"{program} {fedstill.__version__}\n"
        assert base.run(program).returncode == 2
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "simulate" in base.run("fedstill", "--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= MAX_HELP_SECONDS


@pytest.mark.parametrize(
    ("program", "arguments", "extra"),
    [
        ("fedstill", "simulate", "server"),
        ("fedstill", "compare --schemes teacher", "server"),
        ("fedstill", "compress model.onnx --data digits.npz", "server"),
        ("fedstill", "coordinator", "server"),
        ("fedstill", "plan --device pi-4", "server"),
        ("fedstill", "report run", "server"),
        ("fedstill", "dashboard", "server"),
        ("fedstill", "labels serve .", "server"),
        ("fedstill", "certs init", "server"),
        ("fedstill", "fleet list", "server"),
        ("fedstill-node", "run --superlink 127.0.0.1:9 --node-id a --data digits.npz", "node"),
        ("fedstill-node", "doctor --bundle bundle", "node"),
    ],
)
def test_what_the_base_lacks_is_one_line(base: Place, program: str, arguments: str, extra: str) -> None:
    done = base.run(program, *arguments.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"needs more than this installation has: pip install 'fedstill[{extra}]'" in line


@pytest.mark.parametrize("arguments", ["simulat", "simulate --nope", "plan"])
def test_wrong_usage_is_one_line_under_the_newest_typer(base: Place, arguments: str) -> None:
    done = base.run("fedstill", *arguments.split())
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_doctor_says_what_the_base_lacks(base: Place) -> None:
    done = base.run("fedstill", "doctor", "--set", "data.source=digits.npz")
    assert done.returncode == 1
    assert "torch is missing" in done.stdout
    assert "digits.npz: " in done.stdout


def test_a_first_configuration_is_written_from_the_wheel(base: Place) -> None:
    done = base.run("fedstill", "init", "first")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (base.folder / "first").iterdir()}
    assert written == {"fedstill.toml", "mine.py", "fedstill.schema.json"}


def test_with_the_servers_extra_a_whole_federation_runs(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["version"] == fedstill.__version__
    assert len(summary["nodes"]) == 2
    assert (run_dir / "report.html").is_file()


def test_the_help_of_arguments_is_shown_under_the_typer_of_flower(server: Place) -> None:
    done = server.run("fedstill", "simulate", "--help")
    assert "TOML file; left out: the embedded default" in done.stdout


def test_built_in_data_names_the_extra_that_brings_it(server: Place) -> None:
    done = server.run("fedstill", "simulate", "--grid", "local", "--set", "data.source=digits")
    assert done.returncode == 2
    assert "pip install 'fedstill[datasets]'" in done.stderr.splitlines()[-1]


def test_the_base_predicts_with_an_artefact(base: Place, run_dir: Path) -> None:
    artefact = run_dir / "nodes" / "node-0000" / "artefact"
    done = base.run("fedstill-node", "predict", artefact, "digits.npz", "--output", "predicted.csv")
    assert done.returncode == 0, done.stderr
    assert (base.folder / "predicted.csv").read_text().startswith("prediction\n")


def test_a_coordinator_from_a_wheel_and_a_device_complete_a_federation(
    server: Place, site: dict[str, str], tmp_path: Path
) -> None:
    environment = site | {"PYTHONPATH": str(server.folder), "FEDSTILL_HOME": str(tmp_path / "cache")}
    port = free_port()
    coordinator = [server.bin / "fedstill", "coordinator", "--home", tmp_path / "site", "--port", port]
    own = {"data.private": "nodes", "federation.num_nodes": 1, "monitoring.enabled": "false"}
    words = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
    words += ["--set", f"data.source={server.folder / 'digits.npz'}"]
    device = [server.bin / "fedstill-node", "run", "--superlink", f"127.0.0.1:{port}", "--node-id", "a"]
    device += ["--data", tmp_path / "a.npz", "--home", tmp_path / "home-a"]
    log = tmp_path / "coordinator.log"
    with ExitStack() as stack:
        process = stack.enter_context(started([*coordinator, *SETTINGS, *words], environment, log))
        stack.enter_context(started(device, environment, tmp_path / "a.log"))
        assert process.wait(240) == 0, log.read_text()
    summary = json.loads((find_run(tmp_path) / "summary.json").read_text())
    assert [node["num_rounds"] for node in summary["nodes"]] == [1]


def test_the_dashboard_serves_its_page_and_its_files(server: Place, run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "dashboard.log"
    command = [server.bin / "fedstill", "dashboard", run_dir, "--port", "0"]
    with started(command, server.environment, log) as process:
        wait_until(lambda: "http://" in log.read_text(), process, log, seconds=60)
        (address,) = {word.rstrip("/") for word in log.read_text().split() if word.startswith("http://")}
        for path, inside in (("/", "<html"), ("/static/app.js", "import")):
            with urllib.request.urlopen(address + path, timeout=10) as answer:
                assert inside in answer.read().decode()


def test_both_distributions_together_are_refused_and_the_devices_alone_works(
    base: Place, dist: dict[str, Path], run_dir: Path
) -> None:
    # Last, as it changes the base: what the refusal advises is what is done.
    base.pip("install", "--no-deps", dist["device"])
    for program in ("fedstill", "fedstill-node"):
        done = base.run(program, "--version")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "fedstill and fedstill-device are both installed" in line
    base.pip("uninstall", "--yes", "fedstill", "fedstill-device")
    base.pip("install", "--no-deps", dist["device"])
    assert not (base.bin / "fedstill").exists()
    assert base.run("fedstill-node", "--version").returncode == 0
    artefact = run_dir / "nodes" / "node-0001" / "artefact"
    done = base.run("fedstill-node", "predict", artefact, "digits.npz", "--output", "device.csv")
    assert done.returncode == 0, done.stderr
    done = base.run("fedstill-node", "doctor", "--bundle", "bundle")
    assert "pip install 'fedstill-device[node]'" in done.stderr
