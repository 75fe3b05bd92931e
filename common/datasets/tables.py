"""CSV files of a label column and numeric columns, or one column of text or of sequences."""

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

from fedstill.common.datasets.reading import open_bytes, reading
from fedstill.common.datasets.records import RAW_TASKS, Array, Content, Part, ReadOptions, read_wanted
from fedstill.common.datasets.values import as_labels, as_texts
from fedstill.common.errors import DataError

# Rows that are held as text at once.
CHUNK_ROWS = 2048


@dataclass(frozen=True)
class _Columns:
    """Positions of what a table holds."""

    names: tuple[str, ...]
    features: tuple[int, ...]
    label: int | None
    group: int | None
    task: str
    """What the one feature column holds, "text" or "sequence"; empty for numbers."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in their order."""
        return tuple(self.names[index] for index in self.features)


def read_table(path: Path, options: ReadOptions) -> Content:
    """Reads one CSV, which has no test part of its own."""
    part, columns = _read_part(path, options)
    return Content(part, feature_names=columns.feature_names, task=columns.task)


def read_table_pair(train_path: Path | None, test_path: Path | None, options: ReadOptions) -> Content:
    """Reads train.csv and test.csv; the test part's columns are taken in the order of train's."""
    columns: _Columns | None = None

    def read(path: Path) -> Part:
        nonlocal columns
        alike = options
        if columns is not None:
            alike = replace(options, feature_names=columns.feature_names, task=columns.task or "tabular")
        part, columns = _read_part(path, alike)
        return part

    train, test = read_wanted(
        options,
        train=partial(read, train_path) if train_path else None,
        test=partial(read, test_path) if test_path else None,
    )
    assert columns is not None  # one of the two files is there
    return Content(train, test, feature_names=columns.feature_names, task=columns.task)


def _read_part(path: Path, options: ReadOptions) -> tuple[Part, _Columns]:
    with reading(path), open_bytes(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        reader = csv.reader(text)
        columns = _find_columns(path, next(reader, []), options)
        x_chunks: list[Array] = []
        labels: list[str] = []
        groups: list[str] = []
        for lines, rows in _chunks(path, reader, width=len(columns.names)):
            x_chunks.append(
                _parse_raw(path, lines, rows, columns) if columns.task else _parse(path, lines, rows, columns)
            )
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
    return part, columns


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
    if not features:
        raise DataError(f"{path} has no column of features beside {', '.join(names)}")
    task = _find_task(path, {names[index] for index in features}, options.task)
    if task and len(features) > 1:
        if task not in names:
            raise DataError(
                f"{path} has several columns ({', '.join(names[index] for index in features[:12])});"
                f" expected the one that holds the samples to be named {task!r}"
            )
        features = [names.index(task)]
    return _Columns(names, tuple(features), label, group, task)


def _find_task(path: Path, names: set[str], asked: str) -> str:
    if asked in RAW_TASKS:
        return asked
    found = sorted(names & set(RAW_TASKS)) if asked == "auto" else []
    if len(found) > 1:
        raise DataError(f"{path} has columns of {' and '.join(found)}; set data.task to one of them")
    return found[0] if found else ""


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


def _parse_raw(path: Path, lines: list[int], rows: list[list[str]], columns: _Columns) -> Array:
    (index,) = columns.features
    return as_texts(_texts(path, lines, rows, index, columns.names[index]))


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
