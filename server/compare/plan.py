"""Which runs a comparison has: schemes × seeds × swept values, checked before the first one starts."""

from __future__ import annotations

import hashlib
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedstill.common.config import Config, Scalar, build_config, flatten, load_config
from fedstill.common.datasets import absolute_source, load_dataset, split_dataset
from fedstill.common.errors import ConfigError, UsageError
from fedstill.common.models import measure_input, resolve_model
from fedstill.server.exchange.vocabulary import encode_dataset
from fedstill.server.federation.preparation import check_names
from fedstill.server.schemes import SCHEMES, get_scheme

Value = TypeVar("Value", bound=Scalar)

MAX_SLUG_LETTERS = 120
# Besides all of [data], these decide what each node holds.
PARTITION_KEYS = (
    "federation.num_nodes",
    "federation.partitioner",
    "federation.alpha",
    "federation.min_samples_per_node",
    "federation.labels_per_node",
    "federation.empty_nodes",
)


@dataclass(frozen=True)
class PlannedRun:
    """One run: a scheme, a seed and one value of each swept key."""

    slug: str
    cell: str
    scheme: str
    seed: int
    sweep: dict[str, Scalar]
    config: Config


@dataclass(frozen=True)
class Plan:
    """All runs in the order in which they start: seed by seed, so that an unfinished comparison is paired."""

    base: Config
    schemes: tuple[str, ...]
    seeds: tuple[int, ...]
    sweep: dict[str, tuple[Scalar, ...]]
    runs: tuple[PlannedRun, ...]
    command: str


def make_plan(
    config_path: Path | None,
    *,
    schemes: str,
    seeds: str,
    sweeps: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Plan:
    """Builds the cross product; loads no data.

    Args:
        config_path: TOML file that all runs share; None is the embedded default.
        schemes: Names of schemes, separated by commas.
        seeds: Whole numbers, separated by commas.
        sweeps: Items such as "distill.temperature=1,4".
        overrides: Items such as "federation.num_rounds=5", for all runs.

    Returns:
        The plan; all of its configurations are valid.

    Raises:
        ConfigError: A key, a value or a scheme is wrong.
        UsageError: A list is empty or names something twice.
    """
    for item in overrides:
        _refuse_own_keys(item.partition("=")[0].strip(), option="--set")
    base = load_config(config_path, overrides=overrides)
    names = _distinct(_items(schemes, option="--schemes"), option="--schemes")
    for name in names:
        get_scheme(name)
    numbers = _distinct([_parse_seed(item) for item in _items(seeds, option="--seeds")], option="--seeds")
    sweep = _parse_sweeps(config_path, sweeps, overrides)
    runs = tuple(_cross(base, names, numbers, sweep))
    slugs = [run.slug for run in runs]
    assert len(set(slugs)) == len(slugs)
    command = ["fedstill", "compare", *([str(config_path)] if config_path else [])]
    command += ["--schemes", ",".join(names), "--seeds", ",".join(map(str, numbers))]
    command += [word for item in sweeps for word in ("--sweep", item)]
    command += [word for item in overrides for word in ("--set", item)]
    return Plan(base, tuple(names), tuple(numbers), sweep, runs, shlex.join(command))


def check_plan(plan: Plan) -> None:
    """Loads and splits the data of each distinct setting once, and looks every name up.

    Args:
        plan: What shall run.

    Raises:
        UsageError: A run of the plan would be refused; nothing has been started.
    """
    seen: set[tuple[object, ...]] = set()
    for run in plan.runs:
        config = run.config
        check_names(config)
        models = (config.teacher.model, config.student.model)
        setting = (config.seed, describe_partitions(config), models)
        if setting in seen:
            continue
        seen.add(setting)
        dataset = load_dataset(config.data, seed=config.seed)
        splits = split_dataset(dataset, data=config.data, federation=config.federation, seed=config.seed)
        dataset, encoder = encode_dataset(dataset, splits, config.data)
        spec = measure_input(
            dataset.x_train[splits.server_train],
            task=dataset.task,
            layout=dataset.layout,
            scale=dataset.scale,
            num_ids=encoder.num_ids if encoder else 0,
        )
        resolve_model(config.teacher.model, role="teacher", spec=spec)
        for name in config.student.model.split(","):
            resolve_model(name.strip(), role="student", spec=spec)


def describe_partitions(config: Config) -> tuple[tuple[str, Scalar], ...]:
    """Lists all that decides, beside the seed, which samples each node holds."""
    flat = flatten(config)
    return tuple(
        (key, value) for key, value in flat.items() if key.startswith("data.") or key in PARTITION_KEYS
    )


def name_cell(scheme: str, sweep: Mapping[str, Scalar]) -> str:
    """Names what is averaged over the seeds: a scheme with its swept values."""
    return " ".join([scheme, *(f"{key}={format_scalar(value)}" for key, value in sweep.items())])


def format_scalar(value: Scalar) -> str:
    """Writes a configured value as a person would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)


def _cross(
    base: Config, schemes: Sequence[str], seeds: Sequence[int], sweep: Mapping[str, tuple[Scalar, ...]]
) -> Iterator[PlannedRun]:
    shared = flatten(base)
    for seed, scheme in itertools.product(seeds, schemes):
        for values in itertools.product(*sweep.values()):
            chosen = dict(zip(sweep, values, strict=True))
            config = build_config(shared | chosen | {"seed": seed, "federation.scheme": scheme})
            cell = name_cell(scheme, chosen)
            # A run's own config.toml holds the absolute path, and has to be recognised by it.
            source = absolute_source(config.data.source)
            config = config.model_copy(update={"data": config.data.model_copy(update={"source": source})})
            words = [
                scheme,
                *(f"{key}={format_scalar(value)}" for key, value in chosen.items()),
                f"seed={seed}",
            ]
            yield PlannedRun(_slug("_".join(words)), cell, scheme, seed, chosen, config)


def _slug(text: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9.=+_-]", "-", text)
    if slug == text and len(slug) <= MAX_SLUG_LETTERS:
        return slug
    return f"{slug[:MAX_SLUG_LETTERS]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _parse_sweeps(
    config_path: Path | None, sweeps: Sequence[str], overrides: Sequence[str]
) -> dict[str, tuple[Scalar, ...]]:
    fixed = {item.partition("=")[0].strip() for item in overrides}
    found: dict[str, tuple[Scalar, ...]] = {}
    for item in sweeps:
        key, separator, text = (part.strip() for part in item.partition("="))
        if not separator:
            raise ConfigError(f"--sweep takes key=value,value, got {item!r}")
        _refuse_own_keys(key, option="--sweep")
        if key in found:
            raise UsageError(f"--sweep names {key} twice; give all of its values at once, with commas")
        if key in fixed:
            raise UsageError(f"{key} is both swept and set; leave one of them out")
        option = f"--sweep {key}"
        values = [
            flatten(load_config(config_path, overrides=[*overrides, f"{key}={value}"]))[key]
            for value in _items(text, option=option)
        ]
        found[key] = tuple(_distinct(values, option=option))
    return found


def _refuse_own_keys(key: str, *, option: str) -> None:
    own = {"seed": "--seeds", "federation.scheme": "--schemes"}
    if key in own:
        raise UsageError(f"{option} {key}: a comparison takes it from {own[key]}")


def _items(text: str, *, option: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        known = f" Known: {', '.join(sorted(SCHEMES))}." if option == "--schemes" else ""
        raise UsageError(f"{option}: expected values separated by commas, got {text!r}.{known}")
    return items


def _distinct(values: list[Value], *, option: str) -> list[Value]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise UsageError(f"{option} names {format_scalar(twice[0])} twice; every value counts once")
    return values


def _parse_seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise UsageError(f"--seeds takes whole numbers from 0 on, got {text!r}")
    return int(text)
