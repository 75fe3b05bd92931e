"""What README, CHANGELOG and CONTRIBUTING say is true, and nothing leaks into the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from fedstill.clients.cli import cli as node_cli
from fedstill.common.config import defaults
from fedstill.server.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = {"README": README, "CONTRIBUTING": CONTRIBUTING}


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def command_names(app: typer.Typer) -> set[str]:
    group = typer.main.get_command(app)
    return set(group.commands)  # type: ignore[attr-defined]


def test_readme_names_only_commands_that_exist() -> None:
    named = set(re.findall(r"(?:^|[ `/])fedstill (?!import )(\w[\w-]*)", README))
    assert named <= command_names(cli)
    assert {"simulate", "config", "doctor"} <= named


def test_readme_names_only_node_commands_that_exist() -> None:
    assert set(re.findall(r"fedstill-node (\w+)", README)) <= command_names(node_cli)


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_set_only_keys_that_exist(text: str) -> None:
    named = set(re.findall(r"--set ([a-z_.]+)=", text)) | set(re.findall(r"`([a-z]+\.[a-z_]+)`", text))
    keys = {name for name in named if name.partition(".")[0] in {key.partition(".")[0] for key in defaults()}}
    assert keys <= set(defaults())


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_name_only_make_targets_that_exist(text: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_name_only_files_that_exist(text: str) -> None:
    top = ("common", "clients", "server", "protos", "tests", "deploy", "examples", "benchmarks", ".ci")
    named = {name for name in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if name.split("/")[0] in top}
    placeholders = {name for name in named if "NAME" in name or "*" in name}
    missing = [name for name in named - placeholders if not (ROOT / name).exists()]
    assert not missing


def test_contributing_puts_the_rooms_on_their_floors() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (floors,) = [one["layers"] for one in contracts["contracts"] if one.get("exhaustive")]
    table = CONTRIBUTING.partition("| floor of `server/`")[2].partition("\n\n")[0]
    said: dict[int, set[str]] = {}
    for floor, rooms in re.findall(r"^\| (\d*) ?\| (`[^|]+) \|", table, re.MULTILINE):
        said.setdefault(int(floor) if floor else min(said), set()).update(re.findall(r"`(\w+)/?`", rooms))
    assert said == {len(floors) - above: set(rooms.split(" | ")) for above, rooms in enumerate(floors)}


def test_changelog_speaks_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_pickles_anywhere() -> None:
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|dill|joblib)\b|torch\.(load|save)\(|allow_pickle=True", re.M
    )
    guilty = [
        path.name
        for path in tracked_files()
        if path.suffix == ".py"
        and "tests" not in path.parts
        and forbidden.search(path.read_text(encoding="utf-8"))
    ]
    assert not guilty


def test_no_machine_paths_and_no_registry_hosts() -> None:
    forbidden = re.compile(r"/(?:work|root|home)/\w+|file:///|https?://[\w.]*(?:pypi|pythonhosted|npmjs)\b")
    guilty = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        if "tests" not in path.parts
        and path.suffix in {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ""}
        for match in [forbidden.search(path.read_text(encoding="utf-8", errors="ignore"))]
        if match
    }
    assert not guilty


def test_modules_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked_files()
        if path.suffix == ".py" and "_pb2" not in path.name and "tests" not in path.parts
        for lines in [path.read_text(encoding="utf-8").count("\n")]
        if lines > 400
    }
    assert not long, "a module over 400 lines becomes a folder with the same import path"
