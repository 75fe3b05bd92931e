"""`fedstill plan`: what one device would get, and why, without a federation."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedstill.common.config import Config, list_references
from fedstill.common.devices import DeviceProfile, load_profile
from fedstill.common.inference import describe_host
from fedstill.common.modules import digest_files
from fedstill.server.display.units import format_bytes, format_ratio, format_seconds
from fedstill.server.exchange.encodings import AUTO
from fedstill.server.federation.preparation import Run, check_names, prepare
from fedstill.server.planner.choice import Choice, Conditions, Option, Rejected
from fedstill.server.planner.codecs import choose_codec
from fedstill.server.planner.fronts import Front, find_cache_dir, refuse, scale_latencies
from fedstill.server.planner.planner import check_planning
from fedstill.server.run.events import Observer
from fedstill.server.run.folder import open_run
from fedstill.server.run.state import STATE_FILE, commit_state


@dataclass(frozen=True)
class DevicePlan:
    """What a device would get."""

    profile: DeviceProfile
    conditions: Conditions
    choice: Choice
    codec: str
    codec_reason: str


def plan_device(config: Config, device: str, observe: Observer) -> DevicePlan:
    """Plans for one device: data, teacher and labels are prepared, candidates measured and tried out.

    All of it is kept in the user's cache folder, so that the next device takes seconds.

    Args:
        config: The run's configuration.
        device: Name or path of a device profile.
        observe: Told of progress.

    Returns:
        The plan; its choice is empty where nothing fits.

    Raises:
        UsageError: Configuration, data or profile are wrong.
    """
    profile = load_profile(device)
    config = config.model_copy(
        update={
            "student": config.student.model_copy(update={"plan": "auto"}),
            "exchange": config.exchange.model_copy(update={"codec": AUTO}),
            "federation": config.federation.model_copy(update={"profiles": device}),
        }
    )
    check_names(config)
    check_planning(config)
    folder = _workspace(config)
    with open_run(config, run_dir=folder, resume=(folder / STATE_FILE).exists(), run_id="plan") as (_, state):
        run = Run(config, folder, state, "127.0.0.1:1", observe)
        exchange = prepare(run).exchange
        commit_state(state, folder)
        conditions = Conditions(scale_latencies(profile))
        choice = Front(exchange, observe).choose(profile, conditions)
        codec, codec_reason = choose_codec(
            exchange.publication.encodings, profile.link, label_seconds=config.exchange.label_seconds
        )
    return DevicePlan(profile, conditions, choice, codec, codec_reason)


def _workspace(config: Config) -> Path:
    """Names the folder of data and teacher by what they depend on."""
    federation = config.federation.model_dump(exclude={"profiles"})
    identity = {
        "seed": config.seed,
        "data": config.data.model_dump(),
        "teacher": config.teacher.model_dump(),
        "federation": federation,
        "distill": config.distill.model_dump(),
        "chunk_bytes": config.exchange.chunk_bytes,
    }
    for key, name in (("labels", config.teacher.labels), ("tokenizer", config.data.tokenizer)):
        path = Path(os.path.expandvars(name)).expanduser()
        if path.is_file():
            identity[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    if references := list_references(config):
        identity["code"] = digest_files(references)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return find_cache_dir(config) / "workspaces" / digest[:32]


def print_plan(plan: DevicePlan, console: Console) -> None:
    """Prints every candidate with what it costs the device, the chosen one first.

    Raises:
        UsageError: Nothing fits; the nearest budget that would be enough is named.
    """
    profile, choice = plan.profile, plan.choice
    console.print(Text(f"{profile.name}: {profile.description}"), soft_wrap=True)
    console.print(
        Text(
            f"budgets: {format_bytes(profile.flash_bytes)} flash,"
            f" {format_bytes(profile.memory_bytes)} memory,"
            f" {format_seconds(profile.latency_budget_seconds)} for one sample"
        ),
        soft_wrap=True,
    )
    console.print(_table(plan))
    console.print(Text(describe_measuring(plan)), soft_wrap=True, style="dim")
    if choice.chosen is None:
        raise refuse(choice, profile)
    console.print(Text(f"student  {choice.chosen.candidate.describe()}: {choice.reason}"), soft_wrap=True)
    console.print(Text(f"codec    {plan.codec}: {plan.codec_reason}"), soft_wrap=True)


def describe_measuring(plan: DevicePlan) -> str:
    """Says where latencies and accuracies come from."""
    scales = ", ".join(f"{name} ×{factor:.3g}" for name, factor in plan.conditions.latency_scale.items())
    return (
        "accuracy: a short pilot here, on the server's validation part. latency: one sample, one thread of"
        f" ONNX Runtime, measured on {describe_host()} and scaled to the device ({scales}; its speed is"
        f" {plan.profile.speed.source})"
    )


def _table(plan: DevicePlan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("student", no_wrap=True)
    for name in ("parameters", "artefact", "memory", "latency", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    chosen = plan.choice.chosen
    if chosen is not None:
        table.add_row(*_cells("✓", chosen, "chosen", plan), style="bold")
    for entry in sorted(plan.choice.rejected, key=_order):
        table.add_row(*_cells("" if entry.is_feasible else "✗", entry.option, entry.reason, plan))
    return table


def _order(entry: Rejected) -> tuple[bool, float, int]:
    return not entry.is_feasible, -(entry.option.accuracy or 0.0), entry.option.artefact_bytes


def _cells(mark: str, option: Option, why: str, plan: DevicePlan) -> list[str]:
    return [
        mark,
        option.candidate.describe(),
        f"{option.num_parameters:,}",
        format_bytes(option.artefact_bytes),
        format_bytes(option.memory_bytes),
        format_seconds(plan.conditions.latency(option)),
        format_ratio(option.accuracy),
        why,
    ]


def plan_to_json(plan: DevicePlan) -> dict[str, Any]:
    """Writes a plan as JSON has it."""
    choice = plan.choice

    def describe(option: Option, reason: str) -> dict[str, Any]:
        candidate = option.candidate
        return {
            "name": candidate.describe(),
            "model": candidate.model,
            "width": candidate.width,
            "compression": candidate.compression.to_json(),
            "num_parameters": option.num_parameters,
            "num_macs": option.num_macs,
            "artefact_bytes": option.artefact_bytes,
            "memory_bytes": option.memory_bytes,
            "latency_seconds": plan.conditions.latency(option),
            "fp32_latency_seconds": plan.conditions.fp32_latency(option),
            "host_latency_seconds": option.latency_seconds,
            "pilot_accuracy": option.accuracy,
            "reason": reason,
        }

    return {
        "profile": plan.profile.model_dump(mode="json"),
        "measured": describe_measuring(plan),
        "chosen": describe(choice.chosen, choice.reason) if choice.chosen else None,
        "nearest": choice.nearest,
        "codec": plan.codec,
        "codec_reason": plan.codec_reason,
        "rejected": [describe(entry.option, entry.reason) for entry in choice.rejected],
    }


def require_choice(plan: DevicePlan) -> None:
    """Raises `UsageError`, which names the nearest budget, where nothing fits."""
    if plan.choice.chosen is None:
        raise refuse(plan.choice, plan.profile)
