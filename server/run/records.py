"""What is kept of rounds and nodes: the lines of `rounds.jsonl`, and what the state holds beside them.

These are records with named fields; `to_line` is the one place where they become JSON. Reading is
lenient, since a run that an older version began may be gone on with: what it did not say has a default.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# Said of a node only where it was decided for this node alone.
_DECIDED = ("profile", "plan", "plan_reason", "num_replans", "codec", "codec_reason")


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class PhaseSeconds(_Record):
    """Where a node's time went in one round."""

    fetch: float = 0.0
    train: float = 0.0
    export: float = 0.0
    evaluate: float = 0.0


class ChoiceRecord(_Record):
    """What a node chose for itself in one round; ratios within [0, 1]."""

    temperature: float
    distill_lambda: float = Field(alias="lambda")
    num_steps: int
    public_share: float
    own_accuracy: float
    alone_accuracy: float
    num_validation: int
    num_trial_steps: int
    why: str


class NodeRecord(_Record):
    """One node's answer in one round: figures of its artefact, and what was moved for it.

    Accuracies are ratios; only `private_*` is the node's own word. In a round without evaluation there
    is no artefact: no accuracy, 0 bytes, no digest.
    """

    node_id: str
    family: str = ""
    bits: int = 32
    accuracy: float | None = None
    fp32_accuracy: float | None = None
    uncompressed_accuracy: float | None = None
    validation_accuracy: float | None = None
    private_accuracy: float | None = None
    private_validation_accuracy: float | None = None
    agreement_ratio: float | None = None
    agreement_chance_ratio: float | None = None
    ece: float | None = None
    num_flipped: int | None = None
    worst_recall: float | None = None
    worst_recall_change: float | None = None
    distillation_loss: float | None = None
    private_loss: float | None = None
    num_parameters: int
    fp32_bytes: int
    artefact_bytes: int
    student_digest: str = ""
    artefact_digest: str = ""
    num_steps: int = 0
    latency_seconds_batch1: float | None = None
    fp32_latency_seconds_batch1: float | None = None
    state_reset: bool = False
    learned_together: bool = False
    choice: ChoiceRecord | None = None
    wire_bytes: int = 0
    phase_seconds: PhaseSeconds = PhaseSeconds()
    bytes_down: int = 0
    bytes_up: int = 0
    public_sample_bytes: int = 0
    evaluation_bytes: int = 0
    num_shared_rows: int | None = None
    profile: str | None = None
    plan: str | None = None
    plan_reason: str | None = None
    num_replans: int | None = None
    codec: str | None = None
    codec_reason: str | None = None

    def to_line(self) -> dict[str, Any]:
        """Gives the record as JSON has it."""
        line = self.model_dump(by_alias=True)
        return {name: value for name, value in line.items() if value is not None or name not in _DECIDED}


class ConclusionRecord(_Record):
    """What a scheme made of a round; only `co-teaching` has figures to say."""

    accuracy_before: float | None = None
    """Of the teacher, on the server's validation part."""
    refined_accuracy: float | None = None
    refined_kept: bool | None = None
    ensemble_teacher_kl_nats: float | None = None


class RoundRecord(_Record):
    """One round: a line of `rounds.jsonl`."""

    round: int
    accuracy_mean: float | None = None
    num_sampled: int = 0
    num_replied: int = 0
    num_dropped: int = 0
    num_late: int = 0
    num_weighed: int = 0
    weighed_rounds: dict[str, int] = {}
    """Rounds of the late answers that were mixed in, by node."""
    num_rested: dict[str, int] = {}
    """Nodes that rested, by reason."""
    label_set_id: str | None = None
    seconds: float = 0.0
    gap: float | None = None
    """The teacher's accuracy less the students' mean, on the server's validation part."""
    gap_error: float | None = None
    nodes: list[NodeRecord] = []
    scheme: ConclusionRecord | None = None
    """None where the round concluded nothing."""

    def to_line(self) -> dict[str, Any]:
        """Gives the record as JSON has it."""
        line = self.model_dump(exclude={"nodes", "scheme"})
        line["nodes"] = [node.to_line() for node in self.nodes]
        if self.scheme is not None:
            line["scheme"] = self.scheme.model_dump(exclude_none=True)
        return line


class ClosingRecord(_Record):
    """What a node's end of the run brought in; None where it has not yet, or was not asked."""

    local_accuracy: float | None = None
    local_private_accuracy: float | None = None
    uncompressed_accuracy: float | None = None
    latency_seconds_batch1: float | None = None
    artefact_bytes: int | None = None
    upload_bytes: int = 0


class JudgedTeacher(_Record):
    """What is known of a teacher's predictions, so that a resumed run does not make them again."""

    teacher: str
    """Digest of its weights."""
    predictions: str | None
    """Digest of the file."""
    latency_seconds_batch1: float | None


class ExchangeRecord(_Record):
    """What a resumed run has to know of teacher and publication."""

    teacher_file: str | None = None
    teacher_epochs: int | None = None
    teacher_judged: JudgedTeacher | None = None
    teacher_initial_accuracy: float | None = None
    given_origin: str = ""
    """Digest of the file that soft labels came from, where no model gave them."""
    label_set_id: str = ""
    labels_digest: str | None = None
    """None until a round concluded something; digests are hexadecimal."""
    knowledge_digest: str = ""
    knowledge_counts: list[float] = []
    array_bytes: dict[str, int] = {}
