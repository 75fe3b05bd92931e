"""Writes the reference pages: `python -m docs.writers`."""

from __future__ import annotations

from pathlib import Path

from docs.writers import PAGES
from fedstill.common.files import write_text_atomically

FOLDER = Path(__file__).resolve().parents[1] / "reference"

if __name__ == "__main__":
    for name, write in PAGES.items():
        write_text_atomically(FOLDER / f"{name}.md", write())
