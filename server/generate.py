"""Writes what is derived from code: Flower's run configuration, the schemas of summary and configuration.

Run as `make generate`; tests compare the committed files with what this would write.
"""

from __future__ import annotations

from pathlib import Path

import tomli_w

from fedstill.common.config import CONFIG_SCHEMA_PATH, config_schema
from fedstill.common.files import write_text_atomically
from fedstill.server.deployment.flower_app import run_config
from fedstill.server.run.summary import SCHEMA_PATH, json_schema

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
TABLE = "[tool.flwr.app.config]\n"


def flower_config() -> str:
    """Writes the table of every key that `flwr run --run-config` may override."""
    return TABLE + tomli_w.dumps(run_config())


def pyproject_with_config(text: str) -> str:
    """Replaces the generated table at the end of pyproject.toml."""
    return text[: text.index(TABLE)] + flower_config()


if __name__ == "__main__":
    write_text_atomically(PYPROJECT, pyproject_with_config(PYPROJECT.read_text(encoding="utf-8")))
    write_text_atomically(SCHEMA_PATH, json_schema())
    write_text_atomically(CONFIG_SCHEMA_PATH, config_schema())
