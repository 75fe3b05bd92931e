"""Writes `summary.json` from the state of a finished federation."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np

import fedstill
from fedstill.common.config import Config
from fedstill.common.files import write_text_atomically
from fedstill.server.figures.scoring import TeacherFacts
from fedstill.server.rounds.choices import add_choices
from fedstill.server.run.state import FederationState, NodeState, find_uncompressed, read_rounds
from fedstill.server.run.summary import (
    ChoiceSummary,
    DeviceSummary,
    FleetSummary,
    NodeQuality,
    NodeSummary,
    RoundSummary,
    Summary,
    TeacherSummary,
)
from fedstill.server.schemes import get_scheme

# Packages whose arithmetic or whose protocol shows in a run's figures.
VERSIONED = ("flwr", "numpy", "onnx", "onnxruntime", "ray", "torch")


def write_summary(
    run_dir: Path,
    config: Config,
    state: FederationState,
    *,
    dataset: str,
    evaluation_digest: str,
    num_evaluation_samples: int,
    teacher: TeacherFacts | None,
    quality: Mapping[str, NodeQuality],
) -> Path:
    """Writes `summary.json` atomically.

    Args:
        run_dir: The run folder.
        config: The run's configuration.
        state: The final state.
        dataset: Name of the data.
        evaluation_digest: Digest of the evaluation set's inputs.
        num_evaluation_samples: Its size.
        teacher: The teacher, where the scheme has one.
        quality: Comparisons of a few nodes' models, by node.

    Returns:
        Path of the file.
    """
    is_local = get_scheme(config.federation.scheme).is_alone
    choices: dict[str, list[ChoiceSummary]] = {}
    rounds = []
    for record in read_rounds(run_dir, state):
        add_choices(choices, record)
        rounds.append(RoundSummary(**record.model_dump(include=set(RoundSummary.model_fields))))
    nodes = [
        _summarise_node(
            node,
            run_dir,
            teacher,
            quality.get(node.node_id),
            choices.get(node.node_id, []),
            is_local=is_local,
        )
        for _, node in sorted(state.nodes.items())
        if node.num_rounds
    ]
    summary = Summary(
        run_id=state.run_id,
        scheme=config.federation.scheme,
        dataset=dataset,
        seed=config.seed,
        version=fedstill.__version__,
        versions=read_versions(),
        wall_seconds=state.wall_seconds,
        num_resumes=state.num_resumes,
        stopped_because=state.stopped_because,
        eval_set={"digest": evaluation_digest, "num_samples": num_evaluation_samples},
        teacher=None if teacher is None else _summarise_teacher(teacher),
        nodes=nodes,
        fleet=_summarise_fleet(nodes, state),
        rounds=rounds,
    )
    path = run_dir / "summary.json"
    write_text_atomically(path, summary.model_dump_json(by_alias=True, indent=1) + "\n")
    return path


def read_versions() -> dict[str, str]:
    """Reads the versions that a run's figures depend on; packages that are not installed are left out."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _summarise_teacher(teacher: TeacherFacts) -> TeacherSummary:
    return TeacherSummary(**{name: getattr(teacher, name) for name in TeacherSummary.model_fields})


def _summarise_node(
    node: NodeState,
    run_dir: Path,
    teacher: TeacherFacts | None,
    quality: NodeQuality | None,
    choices: list[ChoiceSummary],
    *,
    is_local: bool,
) -> NodeSummary:
    report, closing = node.report, node.closing
    assert report is not None  # it has answered a round
    artefact = Path("nodes") / node.node_id / "artefact"
    return NodeSummary(
        node_id=node.node_id,
        family=node.family,
        num_train_samples=node.num_train_samples,
        num_private_test=node.num_private_test,
        accuracy=report.accuracy,
        fp32_accuracy=report.fp32_accuracy,
        uncompressed_accuracy=find_uncompressed(node),
        private_accuracy=report.private_accuracy,
        local_accuracy=report.accuracy if is_local else closing.local_accuracy,
        local_private_accuracy=report.private_accuracy if is_local else closing.local_private_accuracy,
        validation_accuracy=report.validation_accuracy,
        private_validation_accuracy=report.private_validation_accuracy,
        agreement_ratio=report.agreement_ratio,
        agreement_chance_ratio=report.agreement_chance_ratio,
        ece=report.ece,
        num_flipped=report.num_flipped,
        worst_recall=report.worst_recall,
        worst_recall_change=report.worst_recall_change,
        num_parameters=report.num_parameters,
        fp32_bytes=report.fp32_bytes,
        artefact_bytes=closing.artefact_bytes or report.artefact_bytes,
        artefact_path=str(artefact) if (run_dir / artefact / "manifest.json").exists() else None,
        artefact_digest=report.artefact_digest,
        student_digest=report.student_digest,
        latency_seconds_batch1=closing.latency_seconds_batch1,
        teacher_latency_seconds_batch1=None if teacher is None else teacher.latency_seconds_batch1,
        bytes_down=node.bytes_down,
        bytes_up=node.bytes_up,
        public_sample_bytes=node.public_sample_bytes,
        evaluation_bytes=node.evaluation_bytes,
        artefact_upload_bytes=closing.upload_bytes,
        num_rounds=node.num_rounds,
        num_state_resets=node.num_state_resets,
        learned_together=report.learned_together,
        device=_summarise_device(node),
        choices=choices,
        quality=quality,
    )


def _summarise_device(node: NodeState) -> DeviceSummary | None:
    profile, plan = node.profile, node.plan
    if profile is None or node.report is None:
        return None
    num_bytes = node.closing.artefact_bytes or node.report.artefact_bytes
    latency = node.device_latency_seconds
    return DeviceSummary(
        profile=profile.name,
        is_simulated=node.is_simulated,
        flash_bytes=profile.flash_bytes,
        latency_budget_seconds=profile.latency_budget_seconds,
        latency_seconds=latency,
        speed_source=profile.speed.source,
        is_within_budget=None
        if latency is None
        else num_bytes <= profile.flash_bytes and latency <= profile.latency_budget_seconds,
        plan=plan.name if plan else None,
        plan_reason=plan.reason if plan else "",
        expected_accuracy=plan.accuracy if plan else None,
        expected_artefact_bytes=plan.artefact_bytes if plan else None,
        expected_latency_seconds=plan.latency_seconds if plan else None,
        codec=node.codec or None,
        codec_reason=node.codec_reason,
        num_replans=node.num_replans,
    )


def _summarise_fleet(nodes: list[NodeSummary], state: FederationState) -> FleetSummary:
    accuracies = [node.accuracy for node in nodes if node.accuracy is not None]
    return FleetSummary(
        accuracy_mean=_mean(accuracies),
        accuracy_p5=float(np.percentile(accuracies, 5)) if accuracies else None,
        accuracy_min=min(accuracies, default=None),
        private_accuracy_mean=_mean(node.private_accuracy for node in nodes),
        local_accuracy_mean=_mean(node.local_accuracy for node in nodes),
        uncompressed_accuracy_mean=_mean(node.uncompressed_accuracy for node in nodes),
        local_private_accuracy_mean=_mean(node.local_private_accuracy for node in nodes),
        bytes_down=sum(node.bytes_down for node in nodes),
        bytes_up=sum(node.bytes_up for node in nodes),
        public_sample_bytes=sum(node.public_sample_bytes for node in nodes),
        wire_bytes_actual=sum(node.wire_bytes for node in state.nodes.values()),
        fedavg_bytes=sum(node.fedavg_bytes for node in state.nodes.values()),
        artefact_bytes_mean=_mean(node.artefact_bytes for node in nodes),
        num_learned_together=sum(node.learned_together for node in nodes),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
