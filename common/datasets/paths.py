"""Which reader a path goes to."""

from __future__ import annotations

import math
from pathlib import Path

from fedstill.common.datasets.arrays import read_npy, read_npz
from fedstill.common.datasets.idx import is_idx_name, read_idx_file, read_idx_folder
from fedstill.common.datasets.reading import reading
from fedstill.common.datasets.records import Content, Part, ReadOptions, read_wanted
from fedstill.common.datasets.tables import read_table, read_table_pair
from fedstill.common.errors import DataError

HUB_PREFIX = "hf:"
HUB_ENDINGS = (".parquet", ".arrow", ".json", ".jsonl")
KINDS = (
    "an .npz, a .csv[.gz] with a column text or sequence or numeric ones, or a folder of IDX files,"
    " train.csv/test.csv or *train*.npz/*test*.npz"
)


def read_path(path: Path, options: ReadOptions) -> Content:
    """Reads a file or a folder in any supported format.

    Args:
        path: What to read.
        options: What is asked for. Where labels are not needed, a .npy and an IDX
            file of images on its own will do too.

    Returns:
        The content, its samples as the file has them.

    Raises:
        DataError: Nothing there, or nothing that this version reads.
    """
    if path.is_dir():
        return _read_folder(path, options)
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    name = path.name.lower()
    if name.endswith(".npz"):
        return read_npz(path, options)
    if name.endswith((".csv", ".csv.gz")):
        return read_table(path, options)
    if not options.need_labels and name.endswith(".npy"):
        return read_npy(path)
    if not options.need_labels and is_idx_name(path):
        return read_idx_file(path)
    if is_idx_name(path):
        raise DataError(f"{path} is one IDX file; name its folder {path.parent}, which holds the labels too")
    if name.endswith(HUB_ENDINGS):
        raise DataError(f"{path} is read through flwr-datasets: write {HUB_PREFIX}{path}")
    raise DataError(f"cannot tell what {path} is by its name; expected {KINDS}, or {HUB_PREFIX}NAME")


def _read_folder(folder: Path, options: ReadOptions) -> Content:
    with reading(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file())
    class_names = _read_class_names(folder / "classes.txt")
    content = read_idx_folder(folder, options)
    if content is None:
        archives = [path for path in files if path.suffix == ".npz"]
        tables = [path for path in files if path.name.endswith((".csv", ".csv.gz"))]
        if archives:
            content = _read_archives(folder, archives, options)
        elif tables:
            content = _read_tables(folder, tables, options)
        else:
            if any(path.name.endswith(HUB_ENDINGS) for path in files):
                raise DataError(f"{folder} is read through flwr-datasets: write {HUB_PREFIX}{folder}")
            names = ", ".join(path.name for path in files[:8]) or "nothing"
            raise DataError(f"{folder} holds {names}; expected {KINDS}")
    return Content(
        content.train,
        content.test,
        content.test_mask,
        class_names,
        content.scale,
        content.feature_names,
        content.task,
    )


def _read_archives(folder: Path, archives: list[Path], options: ReadOptions) -> Content:
    train = _only(folder, [path for path in archives if "train" in path.stem])
    test = _only(folder, [path for path in archives if "test" in path.stem and path != train])
    if train is None and test is None:
        if len(archives) > 1:
            raise DataError(f"{folder} holds {len(archives)} .npz files; expected *train*.npz and *test*.npz")
        return read_npz(archives[0], options)
    scales: set[float] = set()

    def read(path: Path) -> Part:
        content = read_npz(path, options)
        part = content.train if content.test is None else content.test if content.train is None else None
        if part is None:
            raise DataError(f"{path} has a test part of its own; name that file instead of its folder")
        scales.add(content.scale)
        return part

    train_part, test_part = read_wanted(
        options,
        train=(lambda: read(train)) if train else None,
        test=(lambda: read(test)) if test else None,
    )
    if len(scales) > 1 and not math.isclose(*scales):
        raise DataError(f"{folder}: training and test part have different scales: {sorted(scales)}")
    return Content(train_part, test_part, scale=scales.pop())


def _read_tables(folder: Path, tables: list[Path], options: ReadOptions) -> Content:
    train = _only(folder, [path for path in tables if path.name in ("train.csv", "train.csv.gz")])
    test = _only(folder, [path for path in tables if path.name in ("test.csv", "test.csv.gz")])
    if train or test:
        return read_table_pair(train, test, options)
    if len(tables) > 1:
        raise DataError(f"{folder} holds {len(tables)} CSV files; expected train.csv[.gz] and test.csv[.gz]")
    return read_table(tables[0], options)


def _only(folder: Path, paths: list[Path]) -> Path | None:
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise DataError(f"{folder} holds both {names}; keep one of them")
    return paths[0] if paths else None


def _read_class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    with reading(path):
        names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a class twice; expected one name per line, the first for label 0")
    return names
