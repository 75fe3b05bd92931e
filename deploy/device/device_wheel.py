"""Builds the wheel that devices install: the same package without the coordinator's code.

python deploy/device/device_wheel.py dist/device
pip install --constraint constraints.txt 'dist/device/fedstill-….whl[node]'
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        # What is not there has no command either.
        text = re.sub(
            r'^(fedstill = "fedstill\.server\..*|"fedstill\.server" = .*)\n', "", text, flags=re.MULTILINE
        )
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        (folder / "dist").mkdir()
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
        command += [] if isolated else ["--no-build-isolation"]
        command += ["--no-deps", "--wheel-dir", str(folder / "dist"), str(folder)]
        subprocess.run(command, check=True)  # noqa: S603 the command is built above
        (built,) = (folder / "dist").glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(built, output / built.name))


if __name__ == "__main__":
    sys.stdout.write(f"{build_wheel(Path(sys.argv[1] if len(sys.argv) > 1 else 'dist/device'))}\n")
