"""CSV files of numeric columns and a label column."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.datasets.reading import open_bytes, reading
from common.datasets.records import Content, Part, ReadOptions, read_wanted
from common.datasets.values import as_labels
from common.errors import DataError

# Rows that are held as text at once.
CHUNK_ROWS = 2048


@dataclass(frozen=True)
class _Columns:
    """Positions of what a table holds."""

    names: tuple[str, ...]
    features: tuple[int, ...]
    label: int | None
    group: int | None


def read_table(path: Path, options: ReadOptions) -> Content:
    """Reads one CSV, which has no test part of its own."""
    part, names = _read_part(path, options)
    return Content(part, feature_names=names)


def read_table_pair(train_path: Path | None, test_path: Path | None, options: ReadOptions) -> Content:
    """Reads train.csv and test.csv; the test part's columns are taken in the order of train's."""
    names = options.feature_names

    def read(path: Path) -> Part:
        nonlocal names
        part, names = _read_part(path, replace(options, feature_names=names))
        return part

    train, test = read_wanted(
        options,
        train=partial(read, train_path) if train_path else None,
        test=partial(read, test_path) if test_path else None,
    )
    return Content(train, test, feature_names=names)


def _read_part(path: Path, options: ReadOptions) -> tuple[Part, tuple[str, ...]]:
    with reading(path), open_bytes(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        reader = csv.reader(text)
        columns = _find_columns(path, next(reader, []), options)
        x_chunks: list[NDArray[np.float32]] = []
        labels: list[str] = []
        groups: list[str] = []
        for lines, rows in _chunks(path, reader, width=len(columns.names)):
            x_chunks.append(_parse(path, lines, rows, columns))
            if columns.label is not None:
                labels += _texts(path, lines, rows, columns.label, columns.names[columns.label])
            if columns.group is not None:
                groups += _texts(path, lines, rows, columns.group, columns.names[columns.group])
    if not x_chunks:
        raise DataError(f"{path} has a header but no rows")
    part = Part(
        np.concatenate(x_chunks),
        as_labels(np.array(labels), origin=str(path)) if labels else None,
        np.array(groups) if groups else None,
    )
    return part, tuple(columns.names[index] for index in columns.features)


def _find_columns(path: Path, header: Sequence[str], options: ReadOptions) -> _Columns:
    names = tuple(name.strip() for name in header)
    if not any(names):
        raise DataError(f"{path} is empty; expected a header and rows")
    if all(_is_number(name) for name in names):
        raise DataError(f"{path} has no header: its first line holds numbers only; name the columns there")
    if "" in names:
        raise DataError(
            f"{path}: column {names.index('') + 1} has no name; name it,"
            " or drop it if it numbers the rows (pandas: to_csv(index=False))"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} appears twice in the header")
    label = _find(path, names, options.label_column, key="data.label_column", needed=options.need_labels)
    group = None
    if options.group_column:
        # A test part, read with the names of the training part's features, may lack groups.
        needed = options.need_labels and not options.feature_names
        group = _find(path, names, options.group_column, key="data.group_column", needed=needed)
    features = [index for index in range(len(names)) if index not in (label, group)]
    if options.feature_names:
        features = [_find_feature(path, names, name) for name in options.feature_names]
    elif kinds := {"text", "sequence"} & {names[index] for index in features}:
        raise DataError(
            f"{path} holds a column {sorted(kinds)[0]!r}: this version reads images, series and tables of"
            " numbers (IDX, .npz, CSV with numeric columns), no text or sequences"
        )
    if not features:
        raise DataError(f"{path} has no column of features beside {', '.join(names)}")
    return _Columns(names, tuple(features), label, group)


def _find(path: Path, names: Sequence[str], wanted: str, *, key: str, needed: bool) -> int | None:
    if wanted in names:
        return names.index(wanted)
    if not needed:
        return None
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise DataError(
        f"{path} has no column {wanted!r}{hint} Set {key} to one of its"
        f" {len(names)} columns: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
    )


def _find_feature(path: Path, names: Sequence[str], wanted: str) -> int:
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{path} lacks the column {wanted!r} that the training part has{hint}")
    return names.index(wanted)


def _chunks(path: Path, reader: Any, *, width: int) -> Iterator[tuple[list[int], list[list[str]]]]:
    numbered = ((reader.line_num, row) for row in reader)
    while batch := list(itertools.islice(numbered, CHUNK_ROWS)):
        lines, rows = [], []
        for line, row in batch:
            if not row:
                continue
            if len(row) != width:
                raise DataError(
                    f"{path}, line {line}: expected {width} cells as in the header, got {len(row)}"
                )
            lines.append(line)
            rows.append(row)
        if rows:
            yield lines, rows


def _parse(path: Path, lines: list[int], rows: list[list[str]], columns: _Columns) -> NDArray[np.float32]:
    features = columns.features
    try:
        wide = np.array([[row[index] for index in features] for row in rows], dtype=np.float64)
    except ValueError:
        wide = None
    if wide is not None:
        with np.errstate(over="ignore"):
            x: NDArray[np.float32] = wide.astype(np.float32)
        if np.isfinite(x).all():
            return x
    for line, row in zip(lines, rows, strict=True):
        for index in features:
            if not _is_number(row[index]) or not np.isfinite(_as_float32(row[index])):
                expected = "a finite number" if _is_number(row[index]) else "a number"
                came = repr(row[index][:40]) if row[index].strip() else "an empty cell"
                raise DataError(
                    f"{path}, line {line}, column {columns.names[index]!r}: expected {expected}, got {came};"
                    " fill or drop it"
                )
    raise DataError(f"{path}, lines {lines[0]} to {lines[-1]}: not all cells are numbers")


def _as_float32(text: str) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(float(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _texts(path: Path, lines: list[int], rows: list[list[str]], index: int, name: str) -> list[str]:
    texts = [row[index].strip() for row in rows]
    if "" in texts:
        line = lines[texts.index("")]
        raise DataError(f"{path}, line {line}, column {name!r}: the cell is empty; fill it or drop the row")
    return texts
