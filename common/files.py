"""Files that are never half-written: written beside, synced, renamed."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def default_home() -> Path:
    """Says where label cache and node store live unless configured: FEDSTILL_HOME or the user's cache."""
    if home := os.environ.get("FEDSTILL_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedstill"


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it into place on success.

    Args:
        path: The final path; its folder is made.
        mode: Permissions of the file; until it is in place only its owner may read it.

    Yields:
        A path in the same folder, not yet existing as a file name that readers know.

    Raises:
        OSError: No space or no permission; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes a whole file at once; readers see the old content or all of the new."""
    with atomic_path(path, mode=mode) as temporary:
        temporary.write_bytes(content)


def write_text_atomically(path: Path, content: str, *, mode: int = 0o644) -> None:
    """Writes a whole UTF-8 text file at once."""
    write_bytes_atomically(path, content.encode(), mode=mode)


def stamp_files(folder: Path, names: Iterable[str]) -> tuple[tuple[int, int, int] | None, ...]:
    """Tells whether files changed since: another stamp, other files.

    Args:
        folder: Their folder.
        names: Their names.

    Returns:
        Inode, size and time of change of each; None where it is not there.
    """
    stamps: list[tuple[int, int, int] | None] = []
    for name in names:
        try:
            status = (folder / name).stat()
            stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Reads a file of a folder that somebody else may have filled.

    Args:
        path: The file; a link is not followed, and a pipe or a device not opened for waiting.
        max_bytes: The most that is read.

    Returns:
        Its content.

    Raises:
        OSError: It is not there, no regular file, or larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", str(path))
        return file.read(max_bytes)
