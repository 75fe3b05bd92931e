"""The grid of plans: how one is written on the command line, named, and which are tried unasked."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

from fedstill.common.compressors import CompressionPlan, make_plan
from fedstill.common.errors import UsageError, unknown_name
from fedstill.common.installation import install_command

DEFAULT_GRID = (
    "bits=8",
    "bits=8,runtime=executorch",
    "bits=4,storage=packed",
    "prune=0.3,bits=8",
    "prune=0.3,bits=8,runtime=executorch",
    "prune=0.5,bits=8",
    "prune=0.5,bits=8,runtime=executorch",
    "prune=0.7,bits=8",
    "prune=0.7,bits=8,runtime=executorch",
    "lowrank=0.9,bits=8",
    "lowrank=0.9,bits=8,runtime=executorch",
    "sparsify=0.9,bits=8,storage=packed",
    "bits=1,qat=true,storage=packed",
)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


# Key on the command line: the step that it takes, the plan's field, and how its value is read.
_KEYS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "prune": ("prune", "prune_ratio", float),
    "importance": ("", "importance", str),
    "sparsify": ("sparsify", "sparsity", float),
    "pattern": ("sparsify", "pattern", str),
    "lowrank": ("lowrank", "energy", float),
    "rank": ("lowrank", "rank", int),
    "bits": ("quantise", "bits", int),
    "group_size": ("", "group_size", int),
    "qat": ("", "qat", _boolean),
    "storage": ("", "storage", str),
    "runtime": ("", "runtime", str),
}


def parse_plan(text: str, *, num_calibration: int) -> CompressionPlan:
    """Reads "prune=0.5,bits=8,runtime=executorch".

    Args:
        text: Keys and values; `prune`, `sparsify` or `pattern`, `lowrank` or `rank` and
            `bits` take a step, the others say how.
        num_calibration: Samples that set the ranges of static quantisation.

    Returns:
        The plan.

    Raises:
        ConfigError: An unknown key, or a plan that contradicts itself.
        UsageError: A value that cannot be read.
    """
    steps, fields = set(), {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, _, value = item.partition("=")
        if key not in _KEYS:
            raise unknown_name("key of --plan", key, _KEYS)
        step, field, read = _KEYS[key]
        try:
            fields[field] = read(value)
        except (ValueError, KeyError):
            raise UsageError(
                f"--plan {text}: {value!r} is no value for {key}; as {key}={_example(key)}"
            ) from None
        steps.add(step)
    ordered = tuple(step for step in ("prune", "sparsify", "lowrank", "quantise") if step in steps)
    return make_plan(steps=ordered, num_calibration=num_calibration, **({"bits": 32} | fields))


def _example(key: str) -> str:
    return {"qat": "true", "rank": "32", "bits": "8", "group_size": "32"}.get(key, "0.5")


def name_plan(plan: CompressionPlan) -> str:
    """Names a plan, as "prune 0.5 + int8, executorch"; equal plans have equal names."""
    parts = []
    if "prune" in plan.steps:
        parts.append(f"prune {plan.prune_ratio:g}" + _unless(plan.importance, "magnitude"))
    if "sparsify" in plan.steps:
        parts.append(f"sparsify {plan.sparsity if plan.pattern == 'unstructured' else plan.pattern}")
    if "lowrank" in plan.steps:
        parts.append(f"lowrank {plan.energy:g}" + (f" rank {plan.rank}" if plan.rank else ""))
    if plan.bits != 32:
        group = f"/{plan.group_size}" if plan.bits == 4 and plan.group_size != 32 else ""
        bits = "1-bit" if plan.bits == 1 else f"int{plan.bits}"
        parts.append(f"{bits}{group}" + (" qat" if plan.qat else ""))
    name = " + ".join(parts) or "fp32"
    return name + _unless(plan.storage, "plain", sign=", ") + _unless(plan.runtime, "onnx", sign=", ")


def _unless(value: str, default: str, *, sign: str = " ") -> str:
    return "" if value == default else f"{sign}{value}"


def make_grid(texts: Iterable[str], *, num_calibration: int) -> tuple[list[CompressionPlan], list[str]]:
    """Chooses the plans that are tried.

    Args:
        texts: What was asked for, as `parse_plan` reads it; empty takes `DEFAULT_GRID`.
        num_calibration: As for `parse_plan`.

    Returns:
        The plans, each once, and what was left out, in words.

    Raises:
        UsageError: A plan was asked for whose runtime is not installed.
    """
    asked = list(texts)
    plans = [parse_plan(text, num_calibration=num_calibration) for text in asked or DEFAULT_GRID]
    if not _has_executorch():
        if any(plan.runtime == "executorch" for plan in plans) and asked:
            raise UsageError(f"--plan …runtime=executorch: not installed: {install_command('edge')}")
        kept = [plan for plan in plans if plan.runtime != "executorch"]
        return list(dict.fromkeys(kept)), [f"plans for ExecuTorch, which {install_command('edge')} brings"]
    return list(dict.fromkeys(plans)), []


def _has_executorch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("executorch", "torchao"))


def training_part(plan: CompressionPlan) -> CompressionPlan:
    """Returns what of a plan has to be trained: plans that share it share a model."""
    if plan.qat:
        return make_plan(**(plan.to_json() | {"storage": "plain", "runtime": "onnx"}))
    shaping = tuple(step for step in plan.steps if step != "quantise")
    return make_plan(
        **(plan.to_json() | {"steps": shaping, "bits": 32, "storage": "plain", "runtime": "onnx"})
    )
