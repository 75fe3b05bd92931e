"""The output folder: what is finished in it, and that nobody mixes two compressions in one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically
from fedstill.server.compress.records import Front, Row

FRONT_FILE = "front.json"
PICTURE_FILE = "front.png"
SETTINGS_FILE = "settings.json"
ROW_FILE = "row.json"


def slug(name: str) -> str:
    """Makes a plan's name the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def open_folder(output_dir: Path, settings: dict[str, Any]) -> None:
    """Makes the folder, or checks that it holds the same compression.

    Args:
        output_dir: The folder.
        settings: What every row depends on.

    Raises:
        UsageError: It holds rows of another model, other data or another budget.
    """
    path = output_dir / SETTINGS_FILE
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        other = [key for key in settings if found.get(key) != settings[key]]
        if other:
            key = other[0]
            raise UsageError(
                f"{output_dir} holds a compression with {key} = {found.get(key)!r}, now it is"
                f" {settings[key]!r}; choose another --output"
            )
    write_text_atomically(path, json.dumps(settings, indent=1) + "\n")


def read_row(folder: Path) -> Row | None:
    """Reads a finished row; None where there is none, or none that is whole."""
    try:
        return Row.model_validate_json((folder / ROW_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def write_row(folder: Path, row: Row) -> None:
    """Writes a row, last of all that its plan leaves."""
    write_text_atomically(folder / ROW_FILE, row.model_dump_json(indent=1) + "\n")


def write_front(output_dir: Path, front: Front) -> None:
    """Writes the front as JSON."""
    write_text_atomically(output_dir / FRONT_FILE, front.model_dump_json(indent=1) + "\n")


def missing_rows(output_dir: Path, names: Sequence[str]) -> list[str]:
    """Lists the rows that are not finished."""
    return [name for name in names if read_row(output_dir / slug(name)) is None]
