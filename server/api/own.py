"""Functions and modules of a caller's as names that a configuration can hold.

What can be imported is named as others find it, `module:function`. What cannot, since it was made in a
notebook or at a prompt, is lent to a module of this process: only the local grid finds it there.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fedstill.common.errors import ConfigError
from fedstill.common.files import default_home
from fedstill.common.models import InputSpec
from fedstill.common.training import digest_weights, save_weights

LENT = "fedstill_lent"
"""The module of this process; what it holds is named by content."""


def lend_teacher(teacher: Any) -> dict[str, Any]:
    """Names a teacher.

    Args:
        teacher: A trained module, which is held and not trained; a function of (spec, num_classes); or
            a name as `teacher.factory` takes it.

    Returns:
        Keys of the configuration. Only the coordinator builds a teacher, so no other process has to find it.

    Raises:
        ConfigError: Neither a module nor a function.
    """
    if isinstance(teacher, str):
        return {"teacher.factory": teacher}
    if isinstance(teacher, nn.Module):
        digest = digest_weights(teacher)
        path = default_home() / "models" / f"{digest[:32]}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_weights(teacher, path)

        def held(spec: InputSpec, num_classes: int) -> nn.Module:
            del spec, num_classes  # it was made for them
            return copy.deepcopy(teacher)

        takes = getattr(teacher, "takes", None)
        if takes is not None:
            held.takes = takes  # type: ignore[attr-defined]
        name = _lend(held, f"teacher_{digest[:16]}")
        return {"teacher.factory": name, "teacher.checkpoint": str(path)}
    return {"teacher.factory": _name_function(teacher, what="teacher")[0]}


def lend_student(student: Any) -> tuple[str, bool]:
    """Names a student, or several with commas between.

    Args:
        student: A module, of which every node begins with a copy; a function of (spec, *, num_classes,
            width); a name as `student.model` takes it; or a list of these, given to nodes in turn.

    Returns:
        `student.model`, and whether it holds in this process only.

    Raises:
        ConfigError: Neither a module nor a function.
    """
    if isinstance(student, list | tuple):
        lent = [lend_student(one) for one in student]
        return ",".join(name for name, _ in lent), any(bound for _, bound in lent)
    if isinstance(student, str):
        return student, False
    if isinstance(student, nn.Module):

        def copied(spec: InputSpec, *, num_classes: int, width: float) -> nn.Module:
            del spec, num_classes
            if width != 1:
                raise ConfigError(f"a student that is a module has one width: student.width is {width:g}")
            return copy.deepcopy(student)

        identity = hashlib.sha256(f"{student!r}{digest_weights(student)}".encode()).hexdigest()
        return _lend(copied, f"student_{identity[:16]}"), True
    return _name_function(student, what="student")


def lend_model(model: Any) -> str:
    """Names a model to compress: a function of (spec, num_classes), a module, or a name as it is."""
    if isinstance(model, nn.Module):

        def given(spec: InputSpec, num_classes: int) -> nn.Module:
            del spec, num_classes
            return copy.deepcopy(model)

        return _lend(given, f"model_{digest_weights(model)[:16]}")
    return str(model) if not callable(model) else _name_function(model, what="model")[0]


def _name_function(function: Any, *, what: str) -> tuple[str, bool]:
    if not callable(function) or (isinstance(function, type) and issubclass(function, torch.Tensor)):
        raise ConfigError(
            f"{what}: expected a torch module, a function that makes one, or a name, got"
            f" {type(function).__name__}"
        )
    module, path = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if _is_importable(module, path, function):
        return f"{module}:{path}", False
    identity = hashlib.sha256(_read_source(function).encode()).hexdigest()[:16]
    return _lend(function, f"{what}_{identity}"), True


def _is_importable(module: str, path: str, function: Any) -> bool:
    if module in ("", "__main__", LENT) or "<" in path:
        return False
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is function


def _read_source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # made at a prompt: nothing tells one from the next but its place
        return f"{function!r} {id(function)}"


def _lend(entry: Any, name: str) -> str:
    if LENT not in sys.modules:
        module = ModuleType(LENT, "What this process was given and no other can import.")
        module.__spec__ = ModuleSpec(LENT, None)
        sys.modules[LENT] = module
    setattr(sys.modules[LENT], name, entry)
    return f"{LENT}:{name}"
