"""Opening files, and telling in one line what was wrong with them."""

from __future__ import annotations

import csv
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from fedstill.common.errors import DataError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong inside into a `DataError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}; fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); is it a CSV? save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV that can be read: {error}") from None


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file, through gzip where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def strip_suffixes(path: Path) -> str:
    """Names a data set after its file: digits.csv.gz is "digits"."""
    name = path.name.removesuffix(".gz")
    return Path(name).stem or name
