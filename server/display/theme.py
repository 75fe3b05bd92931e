"""The colours of every page that FedStill writes or serves, as CSS variables."""

from __future__ import annotations

LIGHT = """--paper: #fcfcfb; --ink: #1c2024; --muted: #5d666e; --line: #dfe2e5; --soft: #f3f4f4;
  --student: #1f6f8b; --teacher: #b4532a; --control: #98a0a8;"""
DARK = """--paper: #15181b; --ink: #e4e7ea; --muted: #9aa3ab; --line: #2d3237; --soft: #1c2024;
  --student: #63b3cf; --teacher: #e08a62; --control: #7d868e;"""
# What is told apart by colour, light and dark: schemes of a comparison, families of students.
SERIES = (
    ("#1a6d8a", "#63b3cf"),
    ("#b5522b", "#e08a62"),
    ("#56782a", "#9cc25f"),
    ("#7b4fa2", "#b795dd"),
    ("#946800", "#d9ac45"),
    ("#bf3a88", "#e884bd"),
    ("#2d50a7", "#86a4f0"),
    ("#5b6066", "#a9b1b8"),
)


def write_variables(dark: int) -> str:
    """Writes the series' colours as CSS variables; `dark` is 0 or 1."""
    return " ".join(f"--series-{number}: {pair[dark]};" for number, pair in enumerate(SERIES))


# The dashboard's: a reader may choose, and else the system does.
THEME = f""":root {{ color-scheme: light; {LIGHT} {write_variables(0)} }}
@media (prefers-color-scheme: dark) {{
  :root:not([data-theme="light"]) {{ color-scheme: dark; {DARK} {write_variables(1)} }}
}}
:root[data-theme="dark"] {{ color-scheme: dark; {DARK} {write_variables(1)} }}
"""
