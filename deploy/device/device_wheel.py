"""Builds the wheel that devices install, `fedstill-device`: the same package without the coordinator's code.

python deploy/device/device_wheel.py dist/device
pip install 'dist/device/fedstill_device-….whl[node]'
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import tomli_w

NAME = "fedstill-device"
EXTRAS = ("node", "edge", "text", "datasets")
ROOT = Path(__file__).resolve().parents[2]
FILES = ("README.md", "LICENSE")


def build_wheel(output: Path, *, isolated: bool = True) -> Path:
    """Builds the wheel.

    Args:
        output: Folder that takes it; made.
        isolated: Let pip fetch setuptools; else this environment's is used.

    Returns:
        Its path.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("__pycache__", "server")
        shutil.copytree(ROOT / "fedstill", folder / "fedstill", ignore=ignored)
        for file in FILES:
            shutil.copy(ROOT / file, folder)
        (folder / "pyproject.toml").write_text(device_pyproject(), encoding="utf-8")
        (folder / "dist").mkdir()
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
        command += [] if isolated else ["--no-build-isolation"]
        command += ["--no-deps", "--wheel-dir", str(folder / "dist"), str(folder)]
        subprocess.run(command, check=True)  # noqa: S603 the command is built above
        (built,) = (folder / "dist").glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(built, output / built.name))


def device_pyproject() -> str:
    """Writes the devices' pyproject.toml: another name, and no command or extra of what is not there."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, tools = whole["project"], whole["tool"]["setuptools"]
    extras = project["optional-dependencies"]
    own = {
        extra: [line.replace(f"{project['name']}[", f"{NAME}[") for line in extras[extra]] for extra in EXTRAS
    }
    del project["scripts"]["fedstill"], tools["package-data"]["fedstill.server"]
    project |= {"name": NAME, "optional-dependencies": own}
    return tomli_w.dumps(
        {"build-system": whole["build-system"], "project": project, "tool": {"setuptools": tools}}
    )


if __name__ == "__main__":
    sys.stdout.write(f"{build_wheel(Path(sys.argv[1] if len(sys.argv) > 1 else 'dist/device'))}\n")
