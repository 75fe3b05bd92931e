"""Which candidate fits a device best, what was rejected and why, and what would fit if nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedstill.common.devices import DeviceProfile
from fedstill.server.display.units import format_bytes, format_ratio, format_seconds
from fedstill.server.planner.candidates import Candidate

# Two measurements of one graph differ by this much; less is no reason to call a form slower.
SLOWER_RATIO = 1.1


@dataclass(frozen=True)
class Option:
    """A candidate and what was measured of it; latencies are this host's, one thread, batch 1."""

    candidate: Candidate
    artefact_bytes: int
    """All files of a real artefact with random weights, its manifest among them."""
    memory_bytes: int
    """Weights as the runtime holds them, and the largest layer's input and output."""
    num_parameters: int
    num_macs: int
    latency_seconds: float
    fp32_latency_seconds: float
    """Of its uncompressed form."""
    step_seconds: float
    """One training step of the pilot on this host."""
    accuracy: float | None = None
    """What its pilot reached on the server's validation part; None where no pilot was run."""


@dataclass(frozen=True)
class Conditions:
    """How a node differs from what its profile and this host's measurements say.

    `latency_scale` divides by arithmetic: seconds on the device per second on this host.
    """

    latency_scale: dict[str, float] = field(default_factory=dict)
    step_scale: float = 0.0
    """Seconds of a training step on the node per second here; 0 where nobody knows."""
    step_limit_seconds: float = 0.0
    """Longest training step that ends a round in time; 0 is no limit."""
    slack: float = 1.0
    """Multiplies the budgets of latency and step."""

    def latency(self, option: Option) -> float:
        """Expects the latency on the device, seconds."""
        return option.latency_seconds * self._scale(option.candidate.arithmetic)

    def fp32_latency(self, option: Option) -> float:
        """Expects the latency of the uncompressed form on the device, seconds."""
        return option.fp32_latency_seconds * self._scale("fp32")

    def _scale(self, arithmetic: str) -> float:
        return self.latency_scale.get(computes_in(arithmetic), 1.0)


def computes_in(arithmetic: str) -> Literal["fp32", "int8"]:
    """Says what weights are computed in: those of 4 bits in floats, those of 1 bit in 8 bits."""
    return "int8" if arithmetic in ("int8", "binary") else "fp32"


@dataclass(frozen=True)
class Rejected:
    """An option that was not chosen, and why."""

    option: Option
    reason: str
    is_feasible: bool = False
    """It fits, and another is expected to be better."""


@dataclass(frozen=True)
class Choice:
    """What a device gets; `chosen` is None where nothing fits, and `nearest` says what would."""

    chosen: Option | None
    reason: str
    rejected: list[Rejected]
    nearest: str = ""


def find_obstacle(option: Option, profile: DeviceProfile, conditions: Conditions) -> str:
    """Says why an option cannot run on a device; empty where it can."""
    candidate = option.candidate
    for runtime in needed_runtimes(candidate):
        if runtime not in profile.runtimes:
            return f"the device has no {runtime}"
    if candidate.arithmetic not in profile.arithmetic:
        return f"the device has no {candidate.arithmetic}"
    if option.artefact_bytes > profile.flash_bytes:
        return f"{format_bytes(option.artefact_bytes)} of {format_bytes(profile.flash_bytes)} flash"
    if option.memory_bytes > profile.memory_bytes:
        return f"{format_bytes(option.memory_bytes)} of {format_bytes(profile.memory_bytes)} memory"
    latency, budget = conditions.latency(option), conditions.slack * profile.latency_budget_seconds
    if latency > budget:
        return f"{format_seconds(latency)} of {format_seconds(budget)}"
    limit = conditions.slack * conditions.step_limit_seconds
    step = conditions.step_scale * option.step_seconds
    if limit and step > limit:
        return f"a step takes {format_seconds(step)}, the deadline leaves {format_seconds(limit)}"
    if latency > max(conditions.slack, 1.0) * SLOWER_RATIO * conditions.fp32_latency(option):
        return f"slower than fp32, {format_seconds(conditions.fp32_latency(option))}"
    return ""


def needed_runtimes(candidate: Candidate) -> list[str]:
    """Lists what a device has to have to run a candidate, in the words of its profile."""
    plan = candidate.compression
    runtime = "executorch" if plan.runtime == "executorch" else "onnxruntime"
    return [runtime, "packed"] if plan.storage == "packed" else [runtime]


def find_feasible(
    options: Sequence[Option], profile: DeviceProfile, conditions: Conditions
) -> tuple[list[Option], list[Rejected]]:
    """Divides options into those that fit a device and those that do not."""
    feasible, rejected = [], []
    for option in options:
        obstacle = find_obstacle(option, profile, conditions)
        if obstacle:
            rejected.append(Rejected(option, obstacle))
        else:
            feasible.append(option)
    return feasible, rejected


def choose_option(options: Sequence[Option], profile: DeviceProfile, conditions: Conditions) -> Choice:
    """Chooses the option of the highest expected accuracy among those that fit.

    Equal ones go by bytes, then by latency: the smaller and faster wins.

    Args:
        options: What was measured; feasible ones have an accuracy.
        profile: The device.
        conditions: How it differs from this host.

    Returns:
        The choice; without a chosen option where nothing fits.
    """
    feasible, rejected = find_feasible(options, profile, conditions)
    if not feasible:
        return Choice(None, "nothing fits", rejected, nearest=name_nearest(options, profile, conditions))
    best = min(feasible, key=_rank)
    for option in feasible:
        if option is not best:
            rejected.append(Rejected(option, _compare(option, best), is_feasible=True))
    latency = conditions.latency(best)
    reason = (
        f"pilot accuracy {format_ratio(best.accuracy)}, the best of {len(feasible)} that fit"
        f" of {len(options)};"
        f" {format_bytes(best.artefact_bytes)} of {format_bytes(profile.flash_bytes)},"
        f" {format_seconds(latency)} of {format_seconds(profile.latency_budget_seconds)} expected"
    )
    return Choice(best, reason, rejected)


def _rank(option: Option) -> tuple[float, int, float]:
    return -(option.accuracy or 0.0), option.artefact_bytes, option.latency_seconds


def _compare(option: Option, best: Option) -> str:
    if (option.accuracy or 0.0) < (best.accuracy or 0.0):
        return f"pilot accuracy {format_ratio(option.accuracy)}"
    return "as accurate, and larger"


def name_nearest(options: Sequence[Option], profile: DeviceProfile, conditions: Conditions) -> str:
    """Says which budget would be enough: that of the option that is over its own by the least factor."""
    runnable = [
        option
        for option in options
        if option.candidate.arithmetic in profile.arithmetic
        and set(needed_runtimes(option.candidate)) <= set(profile.runtimes)
        and conditions.latency(option) <= SLOWER_RATIO * conditions.fp32_latency(option)
    ]
    if not runnable:
        return f"no candidate runs on {', '.join(profile.runtimes)} with {', '.join(profile.arithmetic)}"

    def needs(option: Option) -> list[tuple[str, float, float]]:
        return [
            ("flash_bytes", option.artefact_bytes, profile.flash_bytes),
            ("memory_bytes", option.memory_bytes, profile.memory_bytes),
            ("latency_budget_seconds", conditions.latency(option), profile.latency_budget_seconds),
        ]

    nearest = min(runnable, key=lambda option: max(need / have for _, need, have in needs(option)))
    wanted = [
        f"{name} = {need:,.0f} instead of {have:,}".replace(",", "_")
        if name.endswith("bytes")
        else f"{name} = {need:.2g} instead of {have:g}"
        for name, need, have in needs(nearest)
        if need > have
    ]
    return f"{nearest.candidate.describe()} would fit with {' and '.join(wanted) or 'a longer deadline'}"
