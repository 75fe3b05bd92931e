"""Figures as people read them: with a unit, three significant digits, and a dash for the unknown."""

from __future__ import annotations

UNKNOWN = "–"


def format_bytes(num_bytes: float | None) -> str:
    """Writes a size in decimal units, as "9.31 kB"."""
    if num_bytes is None:
        return UNKNOWN
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{_three_digits(size)} {unit}"


def format_ratio(ratio: float | None, *, signed: bool = False) -> str:
    """Writes an accuracy or another ratio in [0, 1] with three decimals."""
    if ratio is None:
        return UNKNOWN
    return f"{ratio:+.3f}".replace("-", "−") if signed else f"{ratio:.3f}"


def format_seconds(seconds: float | None) -> str:
    """Writes a duration in the unit that suits it, from µs to hours."""
    if seconds is None:
        return UNKNOWN
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            break
    return f"{_three_digits(seconds * scale)} {unit}"


def format_times(factor: float | None) -> str:
    """Writes how many times larger or longer one thing is than another, as "55×"."""
    return UNKNOWN if factor is None else f"{_three_digits(factor)}×"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def printable(text: str) -> str:
    """Takes out what a terminal would obey: nodes and logs write part of what is shown."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
