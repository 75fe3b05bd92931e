"""Registries: what a configuration can name, from us, from installed packages and from the user's modules."""

from __future__ import annotations

import functools
import hashlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedstill.common.errors import ConfigError, unknown_name
from fedstill.common.modules import describe_fault, digest_files, is_reference, load_reference, search_folders

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Deferred:
    """A built-in that is imported when it is first asked for, as `module:name`: it needs an extra."""

    reference: str


@dataclass(frozen=True)
class Known:
    """One thing that a registry knows."""

    name: str
    origin: str
    """Where it is from, in words."""


def _as_it_is(found: Any, name: str) -> Any:
    del name
    return found


@dataclass(frozen=True, eq=False)
class Registry(Generic[T]):
    """What one key of the configuration may name.

    A name is looked up among the built-ins, among what this process registered, among the
    entry points of installed packages, and, where it reads `module:function`, among the
    user's modules (see `fedstill.common.modules`). Iteration, `in` and `len` are over the
    built-ins and what was registered.

    Args:
        key: What the name names, for errors: "distill.loss", "codec".
        group: Group of entry points, as "fedstill.losses".
        built_in: What comes with us, by name.
        adapt: Makes an entry of what a stranger gave under a name; raises `ConfigError` where
            it cannot be one.
        takes_modules: Whether `module:function` names anything here.
    """

    key: str
    group: str
    built_in: Mapping[str, T | Deferred]
    adapt: Callable[[Any, str], T] = _as_it_is
    takes_modules: bool = True
    _registered: dict[str, Any] = field(default_factory=dict, repr=False)
    _found: dict[tuple[object, ...], T] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> T:
        """Looks a name up.

        Raises:
            ConfigError: An unknown name, with the known ones and the nearest; a module or an entry
                point that does not load; an entry point under the name of a built-in; or something
                that is no such thing.
        """
        if name in self.built_in:
            self._refuse_shadows(name)
            return self._built_in(name)
        if name in self._registered:
            return self.adapt(self._registered[name], name)
        if points := entry_points(self.group).get(name):
            return self._load(name, points)
        if not (self.takes_modules and is_reference(name)):
            raise unknown_name(self.key, name, self.names())
        place = (name, search_folders())
        if place not in self._found:
            self._found[place] = self.adapt(load_reference(name, key=self.key), name)
        return self._found[place]

    def __iter__(self) -> Iterator[str]:
        """Goes over the names of built-ins and of what was registered."""
        yield from self.built_in
        yield from self._registered

    def __contains__(self, name: object) -> bool:
        """Says whether a name is a built-in's or was registered."""
        return name in self.built_in or name in self._registered

    def __len__(self) -> int:
        """Counts built-ins and what was registered."""
        return len(self.built_in) + len(self._registered)

    def items(self) -> Iterator[tuple[str, T]]:
        """Goes over built-ins and what was registered, by name."""
        return ((name, self[name]) for name in self)

    def names(self) -> list[str]:
        """Lists every name that is known: built in, registered, or of an installed package."""
        return list(dict.fromkeys([*self, *entry_points(self.group)]))

    def knows(self, name: str) -> bool:
        """Says whether a name that came over the wire may be used: nothing is imported for it.

        A `module:function` is known once this process looked it up for its own configuration.
        """
        return name in self or name in entry_points(self.group) or (name, search_folders()) in self._found

    def register(self, name: str) -> Callable[[Any], Any]:
        """Adds what it decorates under a name, for this process: `@LOSSES.register("mine")`.

        Raises:
            ConfigError: The name is a built-in's.
        """
        if name in self.built_in:
            raise ConfigError(f"{self.key} {name!r} is built in; register yours under another name")
        if is_reference(name):
            raise ConfigError(
                f"{self.key} {name!r} reads as module:function; register a name without a colon"
            )

        def add(entry: Any) -> Any:
            self._registered[name] = entry
            return entry

        return add

    def reference(self, name: str) -> str:
        """Gives the name by which another process of the same run finds the same.

        Raises:
            ConfigError: It was registered here and is in no module that others could import.
        """
        if name not in self._registered:
            return name
        entry = self._registered[name]
        module, path = getattr(entry, "__module__", ""), getattr(entry, "__qualname__", "")
        if module == "__main__":
            file = getattr(sys.modules[module], "__file__", None)
            module = Path(file).stem if file else ""
        if not is_reference(f"{module}:{path}"):
            raise ConfigError(
                f"{self.key} {name!r} was registered in this process only: put it into a module and name"
                " it module:function, or take the local grid"
            )
        return f"{module}:{path}"

    def known(self) -> list[Known]:
        """Lists everything that is known and where it is from; nothing is loaded."""
        listed = [Known(name, "built in") for name in self.built_in]
        listed += [
            Known(name, f"registered by {_file_of(entry)}") for name, entry in self._registered.items()
        ]
        for name, points in entry_points(self.group).items():
            for point in points:
                refused = "; refused, the name is built in" if name in self.built_in else ""
                listed.append(Known(name, f"{point.value}, of {_distribution(point)}{refused}"))
        return listed

    def digest_code(self, name: str) -> str:
        """Computes the SHA-256 of the code behind a name that is not ours, hexadecimal; empty for built-ins.

        What is kept by name on a disk is kept by this too.
        """
        if name in self.built_in:
            return ""
        if name in self._registered:
            return _digest_source(self._registered[name])
        if points := entry_points(self.group).get(name):
            return _digest_source(points[0].load())
        return digest_files([name])

    def _built_in(self, name: str) -> T:
        entry = self.built_in[name]
        if not isinstance(entry, Deferred):
            return entry
        module, _, attribute = entry.reference.partition(":")
        loaded: T = getattr(import_module(module), attribute)
        return loaded

    def _refuse_shadows(self, name: str) -> None:
        for point in entry_points(self.group).get(name, ()):
            raise ConfigError(
                f"{self.key} {name!r} is built in, and the entry point of {_distribution(point)} in"
                f" {self.group} bears the same name: rename it there, or uninstall {_distribution(point)}"
            )

    def _load(self, name: str, points: tuple[metadata.EntryPoint, ...]) -> T:
        if len(points) > 1:
            owners = " and ".join(map(_distribution, points))
            raise ConfigError(f"{self.key} {name!r} is an entry point of {owners}: uninstall one of them")
        (point,) = points
        place = (name, point.value)
        if place not in self._found:
            try:
                loaded = point.load()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's package does
                raise ConfigError(
                    f"{self.key} {name!r}: the entry point {point.value} of {_distribution(point)} does not"
                    f" load: {describe_fault(error)}"
                ) from None
            self._found[place] = self.adapt(loaded, name)
        return self._found[place]


def gather(package: str, *, attribute: str = "BUILT_IN", first: Sequence[str] = ()) -> dict[str, Any]:
    """Gathers what comes with us from the modules that define it: a new module needs no entry anywhere.

    Args:
        package: Import name of a package; each of its modules is imported.
        attribute: The mapping in which a module says what it adds, by name; one without adds nothing.
        first: Names that are listed before the others, in this order; the others go by name.

    Returns:
        Every entry by its name.
    """
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        entries = getattr(import_module(f"{package}.{module.name}"), attribute, {})
        assert not found.keys() & entries.keys(), f"{package}.{module.name} gives a name of {attribute} twice"
        found |= entries
    return {name: found[name] for name in (*first, *sorted(found.keys() - set(first)))}


def marked(**marks: object) -> Callable[[F], F]:
    """Sets attributes of a function: what an entry says of itself, as `@marked(compares="maps")`."""

    def mark(function: F) -> F:
        for name, value in marks.items():
            setattr(function, name, value)
        return function

    return mark


def entry_points(group: str) -> Mapping[str, tuple[metadata.EntryPoint, ...]]:
    """Lists a group's entry points in installed packages by name, sorted."""
    return _read_entry_points(group, tuple(sys.path))


@functools.lru_cache(maxsize=64)
def _read_entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, tuple[metadata.EntryPoint, ...]]:
    del path  # what is installed depends on it
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=group):
        same = found.setdefault(point.name, [])
        if point not in same:  # a folder that stands on the path twice
            same.append(point)
    return {name: tuple(sorted(points, key=_distribution)) for name, points in sorted(found.items())}


def _distribution(point: metadata.EntryPoint) -> str:
    if point.dist is None:
        return "an unnamed distribution"
    return f"{point.dist.name} {point.dist.version}"


def _file_of(entry: Any) -> str:
    try:
        return inspect.getfile(entry if inspect.isroutine(entry) or inspect.isclass(entry) else type(entry))
    except TypeError:
        return "this process"


def _digest_source(entry: Any) -> str:
    try:
        return hashlib.sha256(Path(_file_of(entry)).read_bytes()).hexdigest()
    except OSError:  # made at a prompt: nothing tells one from the next
        return hashlib.sha256(repr(entry).encode()).hexdigest()


def require_callable(found: Any, name: str, *, key: str, signature: str) -> Any:
    """Refuses what cannot be called; raises `ConfigError`, which says what was expected."""
    if not callable(found):
        raise ConfigError(f"{key}: expected {name} to be {signature}, got {type(found).__name__}")
    return found


def require_kind(found: Any, name: str, kind: type, *, key: str) -> Any:
    """Refuses what is of another type; raises `ConfigError`, which says what was expected."""
    if not isinstance(found, kind):
        raise ConfigError(f"{key}: expected {name} to be a {kind.__name__}, got {type(found).__name__}")
    return found
