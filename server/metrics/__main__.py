"""Writes the table of metrics: `python -m fedstill.server.metrics`."""

from __future__ import annotations

from pathlib import Path

from fedstill.common.files import write_text_atomically
from fedstill.server.metrics.catalogue import render_table

TABLE = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "METRICS.md"

if __name__ == "__main__":
    write_text_atomically(TABLE, render_table())
