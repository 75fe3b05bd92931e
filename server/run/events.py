"""What happens in a run, as plain records.

The coordinator emits them; progress display, metrics and logs are observers that
never reach back. An observer that raises ends the run, so none may fail on bad luck.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

DROP_REASONS = ("error", "late", "lost", "refused", "unanswered")


@dataclass(frozen=True)
class RunStarted:
    """The configuration is valid and the run folder is open."""

    run_id: str
    scheme: str
    dataset: str
    num_nodes: int
    num_rounds: int
    run_dir: str
    codec: str = ""
    temperature: float = math.nan
    distill_lambda: float = math.nan
    quorum: float = 1.0
    deadline_seconds: float = 0.0


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins: data, teacher, labels, nodes, round, controls, report."""

    phase: str
    total: int | None = None
    """Steps that `PhaseAdvanced.done` counts up to; None where nobody knows."""
    round: int = 0
    num_needed: int = 0
    """Answers that close a round, where it is known here; else the run's quorum of the total."""


@dataclass(frozen=True)
class PhaseAdvanced:
    """A phase has come this far."""

    phase: str
    done: int
    detail: str = ""


@dataclass(frozen=True)
class PhaseEnded:
    """A phase is over."""

    phase: str
    seconds: float
    round: int = 0


@dataclass(frozen=True)
class TeacherReady:
    """The teacher is trained or loaded; accuracies are ratios. All None: labels came without a model."""

    accuracy: float | None
    validation_accuracy: float | None
    num_parameters: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class NodeReported:
    """One node's reply to a round's task was accepted."""

    round: int
    node_id: str
    family: str
    accuracy: float | None
    """None, as fp32's, in a round without evaluation; there is no artefact then, of 0 bytes."""
    fp32_accuracy: float | None
    private_accuracy: float | None
    agreement_ratio: float | None
    num_parameters: int
    fp32_bytes: int
    artefact_bytes: int
    bytes_down: int
    bytes_up: int
    public_sample_bytes: int
    wire_bytes: int
    phase_seconds: dict[str, float]
    """Seconds on the node by phase: fetch, train, export, evaluate."""
    distillation_loss: float | None = None
    private_loss: float | None = None
    state_reset: bool = False
    temperature: float | None = None
    """As the node chose it, as λ; None where it chose nothing."""
    distill_lambda: float | None = None


@dataclass(frozen=True)
class LabelsPublished:
    """Soft labels are ready for the next round; both figures are means in nats at the run's temperature."""

    round: int
    entropy_nats: float
    ensemble_teacher_kl_nats: float | None = None
    """How far the teacher is from the students' ensemble, where a scheme has both."""


@dataclass(frozen=True)
class NodeBudgeted:
    """What a node's device takes; None is no limit."""

    node_id: str
    artefact_bytes: float | None
    latency_seconds: float | None


@dataclass(frozen=True)
class NodePlanned:
    """What a node is to train, compress and fetch from its next task on, and why."""

    node_id: str
    profile: str
    """Name of its device's profile; empty where it has none."""
    plan: str = ""
    """Student and compression in words; empty where the configuration sets them for all."""
    plan_reason: str = ""
    codec: str = ""
    """Codec of its labels; empty where the configuration sets it for all."""
    codec_reason: str = ""
    is_change: bool = False
    """It replaces an earlier decision; a new architecture starts from its initial student."""
    is_news: bool = True
    """No node of the same profile was planned so before."""


@dataclass(frozen=True)
class NodeJoined:
    """A node came to a federation that runs already."""

    node_id: str
    is_back: bool
    """It was there before, and its SuperNode was started again."""


@dataclass(frozen=True)
class NodeLeft:
    """A node is no longer of the federation."""

    node_id: str


@dataclass(frozen=True)
class UploadRefused:
    """The label service refused an upload; it comes from one of the service's threads."""

    node_id: str
    """As the sender calls itself; empty where it had not said so yet."""
    reason: str
    """damaged, internal, invalid, non_finite or storage."""
    detail: str


@dataclass(frozen=True)
class PrivacySpent:
    """What the rounds so far cost the node that paid most."""

    round: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class ReplyDropped:
    """A reply was not used, or none came."""

    round: int
    node_id: str
    reason: str
    """One of `DROP_REASONS`."""
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.reason in DROP_REASONS, self.reason


@dataclass(frozen=True)
class RoundClosed:
    """A round is committed."""

    round: int
    accuracy_mean: float | None
    num_sampled: int
    num_replied: int
    num_dropped: int
    seconds: float
    gap: float | None
    """Teacher minus students on the validation part; None without a teacher."""
    num_rested: dict[str, int] = field(default_factory=dict)
    """Nodes that sat the round out, by reason."""


@dataclass(frozen=True)
class NodeClosed:
    """A node's controls and latency are in and its artefact, where collected, is here."""

    node_id: str
    local_accuracy: float | None
    local_private_accuracy: float | None
    latency_seconds_batch1: float


@dataclass(frozen=True)
class Warned:
    """Something that a person should know and that does not end the run."""

    text: str


@dataclass(frozen=True)
class RunFinished:
    """The run folder is complete."""

    run_dir: str
    report_path: str


@dataclass(frozen=True)
class ScrapeAwaited:
    """After a run that was done: its metrics stay until Prometheus has its last figures."""

    seconds: float
    """Longest wait."""


Event = (
    RunStarted
    | PhaseStarted
    | PhaseAdvanced
    | PhaseEnded
    | TeacherReady
    | LabelsPublished
    | NodeReported
    | NodeBudgeted
    | NodePlanned
    | NodeJoined
    | NodeLeft
    | UploadRefused
    | PrivacySpent
    | ReplyDropped
    | RoundClosed
    | NodeClosed
    | Warned
    | RunFinished
    | ScrapeAwaited
)
Observer = Callable[[Event], None]


@contextmanager
def timed_phase(
    observe: Observer, name: str, total: int | None = None, round_number: int = 0
) -> Iterator[None]:
    """Emits the beginning and, unless it fails, the end of a phase."""
    begin = time.monotonic()
    observe(PhaseStarted(name, total, round_number))
    yield
    observe(PhaseEnded(name, time.monotonic() - begin, round_number))


def broadcast(observers: Sequence[Observer]) -> Observer:
    """Joins observers into one that passes every event to each in turn."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
