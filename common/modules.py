"""A user's own modules: where `module:function` is found, and which files it is made of.

A name is looked up in the working directory, then beside the configuration, then among what is
installed. On a device it is looked up in the app bundle that the device was given, and nowhere else.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fedstill
from fedstill.common.errors import ConfigError, FedStillError, near_name

VARIABLE = "FEDSTILL_MODULES"
"""Folders in which this process, and those that it starts, look; they stand before installed modules."""
BUNDLE_FOLDER = "modules"
"""Where an app bundle keeps them, beside our own folders so that none covers ours, and a run folder too."""
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# On modules that came from a folder of the user's: which one.
_ORIGIN = "__fedstill_folder__"


def is_reference(name: str) -> bool:
    """Says whether a name reads as `module:function`."""
    return _REFERENCE.fullmatch(name) is not None


@contextlib.contextmanager
def looking_in(*folders: Path) -> Iterator[None]:
    """Looks names up in the working directory and in these folders for a block, child processes too.

    Args:
        folders: Where to look besides, in order; what an outer block named goes before them.

    Yields:
        Nothing.
    """
    before = os.environ.get(VARIABLE)
    outer = [str(Path.cwd())] if before is None else before.split(os.pathsep)
    wanted = dict.fromkeys([*outer, *(str(folder.resolve()) for folder in folders)])
    os.environ[VARIABLE] = os.pathsep.join(wanted)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


class _Confinement:
    # Of the process, which a device starts for one task.
    is_on = False


@contextlib.contextmanager
def confined_to_bundle() -> Iterator[None]:
    """Takes modules from the app bundle only for a block, unless who started the process says where to look.

    Yields:
        Nothing.
    """
    before, _Confinement.is_on = _Confinement.is_on, VARIABLE not in os.environ
    try:
        yield
    finally:
        _Confinement.is_on = before


def search_folders() -> tuple[tuple[Path, ...], bool]:
    """Lists the folders in which names are looked up, and says whether installed modules count too."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return tuple(Path(folder).resolve() for folder in given.split(os.pathsep) if folder), True
    if _Confinement.is_on:
        return (Path(fedstill.__file__).parents[1] / BUNDLE_FOLDER,), False
    return (Path.cwd(),), True


def load_reference(name: str, *, key: str) -> Any:
    """Imports what `module:function` names.

    Args:
        name: The reference.
        key: What the error calls it, as "distill.loss".

    Returns:
        Whatever the module has under that name.

    Raises:
        ConfigError: No such module, one that does not import (with its own error), or none of that name.
    """
    module_name, _, path = name.partition(":")
    found: Any = _import(module_name, key=key)
    origin = getattr(found, "__file__", None) or module_name
    for part in path.split("."):
        if not hasattr(found, part):
            known = [other for other in dir(found) if not other.startswith("_")]
            raise ConfigError(f"{key}: {origin} holds no {path!r}{near_name(part, known)}")
        found = getattr(found, part)
    return found


def _import(module_name: str, *, key: str) -> ModuleType:
    folders, takes_installed = search_folders()
    for folder in folders:
        if find_file(folder, module_name) is not None:
            return _import_from(folder, module_name, key=key)
    if takes_installed:
        try:
            if importlib.util.find_spec(module_name) is not None:
                return _guarded_import(module_name, origin=module_name, key=key)
        except (ImportError, ValueError):  # a package on the way is missing
            pass
    places = " or ".join(map(str, folders))
    hint = "" if takes_installed else "; a device takes modules of its app and installed entry points only"
    raise ConfigError(f"{key}: cannot import {module_name!r}: there is no such module in {places}{hint}")


def find_file(folder: Path, module_name: str) -> Path | None:
    """Finds the file of a module below a folder; None where it lies elsewhere."""
    place = folder.joinpath(*module_name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def _import_from(folder: Path, module_name: str, *, key: str) -> ModuleType:
    path = find_file(folder, module_name)
    top = module_name.partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is not None and not hasattr(loaded, _ORIGIN):
        file = getattr(loaded, "__file__", None)
        places = [file] if file else list(getattr(loaded, "__path__", []))
        if not any(folder in Path(place).resolve().parents for place in places):
            raise ConfigError(
                f"{key}: {path} bears the name of another module, {file or top}; rename the file"
            )
    for name, module in list(sys.modules.items()):  # of another run in this process, under the same name
        origin = getattr(module, _ORIGIN, None)
        if origin not in (None, str(folder)) and find_file(folder, name) is not None:
            del sys.modules[name]
    importlib.invalidate_caches()
    # First, as where a script lies: what stands beside the module is what it means.
    sys.path.insert(0, str(folder))
    try:
        module = _guarded_import(module_name, origin=str(path), key=key)
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        if str(folder) not in sys.path:  # last from now on, for what its functions import later
            sys.path.append(str(folder))
    for other in list(sys.modules.values()):
        file = getattr(other, "__file__", None)
        if (
            file
            and folder in Path(file).parents
            and not getattr(other, "__name__", "").startswith("fedstill")
        ):
            with contextlib.suppress(AttributeError):
                setattr(other, _ORIGIN, str(folder))
    return module


def _guarded_import(module_name: str, *, origin: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module does
        raise ConfigError(f"{key}: {origin} does not import: {describe_fault(error)}") from None


def describe_fault(error: BaseException) -> str:
    """Says in one line what went wrong in foreign code, and in which line of it."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and not _is_ours(frame.filename)
    ]
    outside = [frame for frame in frames if f"{os.sep}site-packages{os.sep}" not in frame.filename]
    if isinstance(error, SyntaxError) or not outside:
        return said
    return f"{said} ({Path(outside[-1].filename).name}, line {outside[-1].lineno})"


def _is_ours(filename: str) -> bool:
    return any(Path(folder).resolve() in Path(filename).resolve().parents for folder in _our_folders())


def _our_folders() -> list[str]:
    roots = [Path(folder) for folder in fedstill.__path__]
    return [str(root / room) for root in roots for room in ("common", "clients", "server")]


def call_foreign(function: Callable[..., Any], *arguments: Any, name: str, key: str, **named: Any) -> Any:
    """Calls a function of the user's; raises `ConfigError` in one line where it raises."""
    try:
        return function(*arguments, **named)
    except FedStillError:  # what it says on purpose
        raise
    except Exception as error:  # noqa: BLE001 - whatever a stranger's function does
        raise ConfigError(f"{key}: {name} raised {describe_fault(error)}") from None


def list_files(references: Iterable[str]) -> dict[str, Path]:
    """Lists the files that a user's modules are made of: their own, and what they import from beside them.

    Nothing is run: imports are read off the code. Installed modules are not listed.

    Args:
        references: `module:function`, several times the same if need be.

    Returns:
        Files by their path relative to the folder in which they are found, as "mine.py" or
        "package/layers.py", sorted.
    """
    folders, _ = search_folders()
    found: dict[str, Path] = {}
    waiting = [name.partition(":")[0] for name in references if is_reference(name)]
    while waiting:
        top = waiting.pop().partition(".")[0]
        folder = next((folder for folder in folders if _files_of(folder, top)), None)
        if folder is None:
            continue
        for path in _files_of(folder, top):
            relative = path.relative_to(folder).as_posix()
            if relative not in found:
                found[relative] = path
                waiting += _read_imports(path)
    return dict(sorted(found.items()))


def _files_of(folder: Path, top: str) -> list[Path]:
    if (folder / top / "__init__.py").is_file():
        return sorted((folder / top).rglob("*.py"))
    path = folder / f"{top}.py"
    if path.is_file():
        return [path]
    return sorted((folder / top).rglob("*.py")) if top != "fedstill" else []


def _read_imports(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def digest_files(references: Iterable[str]) -> str:
    """Computes the SHA-256 of the files of a user's modules, hexadecimal; empty where there are none."""
    digest = hashlib.sha256()
    files = list_files(references)
    for relative, path in files.items():
        digest.update(f"{relative}\x1f".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest() if files else ""


def copy_files(references: Iterable[str], folder: Path) -> list[Path]:
    """Copies the files of a user's modules into a folder that they can be looked up in; lists the copies."""
    copies = []
    for relative, path in list_files(references).items():
        copy = folder / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copies.append(copy)
    return copies
