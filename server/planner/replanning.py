"""What a node's reports say of its plan: how its device differs from what was expected of it.

A plan is left only where a measured figure is over its budget, or where another is a good
deal better and fits with room to spare: between the two lies the hysteresis.
"""

from __future__ import annotations

from dataclasses import replace

from fedstill.common.config import Config
from fedstill.server.planner.candidates import Candidate
from fedstill.server.planner.choice import Choice, Conditions, Option, computes_in, find_obstacle
from fedstill.server.planner.fronts import Front, scale_latencies
from fedstill.server.run.state import NodePlan, NodeState

# Latencies and steps over their budget by less than this are noise.
TOLERANCE = 1.1
# A move up has to fit with this much of latency and deadline, and to promise this much more accuracy.
ROOM = 0.8
MIN_GAIN = 0.02
# Part of a round's deadline that training may take; the rest is for fetching, export and evaluation.
TRAINING_SHARE = 0.7
# One measurement is off by no more than this; what is beyond is a fault of the clock.
_MAX_CORRECTION = 100.0


def find_conditions(node: NodeState, option: Option | None, config: Config, *, num_steps: int) -> Conditions:
    """Says how a node's device differs from this host, by its profile and by what was seen.

    Args:
        node: Its state.
        option: Its present option, which observations refer to; None before it has one.
        config: The round's deadline.
        num_steps: Training steps of a round.

    Returns:
        The conditions, with no slack.
    """
    assert node.profile is not None
    scale = {
        arithmetic: factor * node.latency_correction.get(arithmetic, 1.0)
        for arithmetic, factor in scale_latencies(node.profile).items()
    }
    deadline = config.federation.deadline_seconds
    step_scale = 0.0
    if node.step_seconds and option is not None and option.step_seconds:
        step_scale = node.step_seconds / option.step_seconds
    return Conditions(scale, step_scale, TRAINING_SHARE * deadline / num_steps if num_steps else 0.0)


def observe_report(node: NodeState, option: Option) -> None:
    """Takes latencies and step time from a node's last report into its state.

    On a simulated node the latency is this host's and is scaled like any other of its
    measurements; on a device it is the device's own.
    """
    assert node.profile is not None
    report = node.report
    if report is None:
        return
    steps, seconds = report.num_steps, report.phase_seconds.train
    if steps and seconds > 0 and not report.learned_together:  # a device has nobody to learn beside
        node.step_seconds = seconds / steps
    scale = scale_latencies(node.profile)
    own = computes_in(option.candidate.arithmetic)
    for measured, arithmetic, expected, is_own in (
        (report.fp32_latency_seconds_batch1, "fp32", option.fp32_latency_seconds, False),
        (report.latency_seconds_batch1, own, option.latency_seconds, True),
    ):
        if not measured:
            continue
        on_device = measured * scale[arithmetic] if node.is_simulated else measured
        if is_own:
            node.device_latency_seconds = on_device
        correction = on_device / (expected * scale[arithmetic])
        node.latency_correction[arithmetic] = min(max(correction, 1 / _MAX_CORRECTION), _MAX_CORRECTION)


def scale_to_device(node: NodeState, latency_seconds: float) -> float | None:
    """Turns the latency of a node's artefact into that on its device; None where no device is known."""
    if node.profile is None or not node.is_simulated:
        return None if node.profile is None else latency_seconds
    if node.plan is not None:
        bits = node.plan.compression.bits
    else:
        bits = 32 if node.report is None else node.report.bits
    return latency_seconds * scale_latencies(node.profile)["int8" if bits in (8, 1) else "fp32"]


def observe_timeout(node: NodeState, config: Config, *, num_steps: int) -> None:
    """Takes it that the steps of a node which missed the deadline need one and a half times as long."""
    if node.plan is not None and config.federation.deadline_seconds and num_steps:
        seen = 1.5 * config.federation.deadline_seconds / num_steps
        node.step_seconds = max(node.step_seconds or 0.0, seen)


def reconsider(
    node: NodeState, option: Option, front: Front, config: Config, *, num_steps: int, rounds_left: int
) -> tuple[Choice, str] | None:
    """Decides whether a node gets another plan for its next round.

    Args:
        node: Its state, observations taken in.
        option: Its present option.
        front: All options.
        config: The run's configuration.
        num_steps: Training steps of a round.
        rounds_left: Rounds that are still to come; a move up needs two.

    Returns:
        The new choice and why the old one is left; None to stay.
    """
    assert node.profile is not None
    conditions = find_conditions(node, option, config, num_steps=num_steps)
    measured = option
    if node.report is not None and node.report.artefact_bytes:
        measured = replace(option, artefact_bytes=node.report.artefact_bytes)
    obstacle = find_obstacle(measured, node.profile, replace(conditions, slack=TOLERANCE))
    if obstacle:
        growth = measured.artefact_bytes / option.artefact_bytes
        profile = node.profile
        if growth > 1:  # what was expected too small of this one is of all
            profile = profile.model_copy(update={"flash_bytes": max(1024, int(profile.flash_bytes / growth))})
        return front.choose(profile, conditions), obstacle
    if rounds_left < 2:
        return None
    better = front.choose(node.profile, replace(conditions, slack=ROOM))
    gain = (better.chosen.accuracy or 0.0) - (option.accuracy or 0.0) if better.chosen else 0.0
    return (better, f"there is room for {gain:.3f} more pilot accuracy") if gain >= MIN_GAIN else None


def record_plan(option: Option, reason: str, conditions: Conditions, before: NodePlan | None) -> NodePlan:
    """Writes a choice into a form that goes into the run's state."""
    candidate = option.candidate
    keeps_student = (
        before is not None
        and (before.model, before.width) == candidate.design
        and not candidate.compression.changes_training
        and not read_candidate(before).compression.changes_training
    )
    return NodePlan(
        model=candidate.model,
        width=candidate.width,
        compression=candidate.compression,
        name=candidate.describe(),
        reason=reason,
        accuracy=option.accuracy,
        artefact_bytes=option.artefact_bytes,
        latency_seconds=conditions.latency(option),
        num_rounds=before.num_rounds if before is not None and keeps_student else 0,
    )


def read_candidate(plan: NodePlan) -> Candidate:
    """Reads a node's plan back."""
    return Candidate(plan.model, plan.width, plan.compression)
