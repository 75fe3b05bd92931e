"""`fedstill init`: a configuration to start from, and a module with models and a loss of one's own."""

from __future__ import annotations

from pathlib import Path

from fedstill.common.config.json_schema import config_schema
from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically

STARTER = Path(__file__).with_name("starter")
TEMPLATES = ("fedstill.toml", "mine.py")
SCHEMA_FILE = "fedstill.schema.json"


def write_starter(folder: Path) -> list[Path]:
    """Writes the files that a federation of one's own starts from.

    Args:
        folder: Where; made.

    Returns:
        What was written: configuration, module, and the schema by which editors check the configuration.

    Raises:
        UsageError: One of them is there already, or `folder` is a file; then nothing is written.
    """
    contents = {name: (STARTER / name).read_text(encoding="utf-8") for name in TEMPLATES}
    contents[SCHEMA_FILE] = config_schema()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"expected a folder, {folder} is a file")
    if present := [name for name in contents if (folder / name).exists()]:
        raise UsageError(
            f"{folder} holds {', '.join(present)} already, and nothing is written over: give another folder"
        )
    for name, content in contents.items():
        write_text_atomically(folder / name, content)
    return [folder / name for name in contents]
