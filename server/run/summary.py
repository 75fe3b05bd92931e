"""`summary.json` and `rounds.jsonl`: what a finished run says about itself.

The JSON Schema beside this module (`summary.schema.json`) is generated from these
models by `make generate`; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedstill.common.errors import DataError


class Record(BaseModel):
    """A part of the summary; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TeacherSummary(Record):
    """The teacher on the evaluation set; null where the scheme has none.

    Its figures are null where soft labels came from a file, without a model.
    """

    model: str = Field(description="its name, or that of the file")
    accuracy: float | None
    initial_accuracy: float | None = Field(
        description="before the first round; co-teaching changes the teacher"
    )
    validation_accuracy: float | None
    num_parameters: int | None
    size_bytes: int | None = Field(description="fp32 safetensors file")
    digest: str = Field(description="of its weights, or of the file")
    num_server_samples: int
    num_epochs: int


class Resemblance(Record):
    """How much one model is like another, on a few hundred evaluation samples."""

    agreement_ratio: float = Field(description="samples on which both predict the same class")
    kl_nats: float = Field(description="KL(other ‖ model), mean over samples, temperature 1")
    cka: float | None = Field(description="linear CKA of penultimate features; null where one never varies")
    saliency_cosine: float = Field(description="of occlusion maps, for what the teacher predicts, else fp32")
    saliency_overlap: float = Field(description="part of the maps' top deciles that both share")


class NodeQuality(Record):
    """A node's models against the teacher, and its artefact against its uncompressed student.

    The floor is the same architecture with random weights.
    """

    artefact_to_teacher: Resemblance | None
    fp32_to_teacher: Resemblance | None
    floor_to_teacher: Resemblance | None
    artefact_to_fp32: Resemblance
    floor_to_fp32: Resemblance


class DeviceSummary(Record):
    """A node's device, what was decided for it, and whether the last artefact keeps to its budgets."""

    profile: str
    is_simulated: bool = Field(description="the profile is the configuration's, the host another machine")
    flash_bytes: int
    latency_budget_seconds: float
    latency_seconds: float | None = Field(
        description="one sample on the device; of a simulated one this host's, scaled by speed_source"
    )
    speed_source: str
    is_within_budget: bool | None
    plan: str | None = Field(
        None, description="student and compression; null where the configuration set them"
    )
    plan_reason: str = ""
    expected_accuracy: float | None = Field(None, description="of the plan's pilot, on the validation part")
    expected_artefact_bytes: int | None = None
    expected_latency_seconds: float | None = None
    codec: str | None = Field(None, description="of its labels; null where the configuration set it")
    codec_reason: str = ""
    num_replans: int = 0


class ChoiceSummary(Record):
    """What a node chose for itself in one round, with `distill.mode = "auto"`."""

    round: int
    temperature: float
    distill_lambda: float = Field(alias="lambda")
    num_steps: int = Field(description="step whose weights were kept")
    public_share: float = Field(
        description="weight of equally frequent classes in the answers, against the node's own frequencies"
    )
    own_accuracy: float = Field(description="on the node's own validation part, shrunk; the node's own word")
    alone_accuracy: float = Field(description="the same, of private data alone: the floor, less .01")
    num_validation: int
    num_trial_steps: int = Field(description="steps beside those of the kept student")
    why: str


class NodeSummary(Record):
    """One node's student as its device runs it; fields are explained in the README."""

    node_id: str
    family: str
    num_train_samples: int
    num_private_test: int
    accuracy: float | None
    fp32_accuracy: float | None
    private_accuracy: float | None
    uncompressed_accuracy: float | None = Field(
        None,
        description="of the same student that nothing was taken out of, distilled alike for as many steps;"
        " null where its control was not drawn",
    )
    local_accuracy: float | None
    local_private_accuracy: float | None
    validation_accuracy: float | None = Field(
        None, description="on the server's validation part: what settings are chosen by"
    )
    private_validation_accuracy: float | None = Field(
        None, description="on the node's own validation part; the node's own word"
    )
    agreement_ratio: float | None
    agreement_chance_ratio: float | None = Field(
        None, description="agreement of two models that share nothing but how often they name each class"
    )
    ece: float | None
    num_flipped: int | None = Field(None, description="samples whose class compression changed")
    worst_recall: float | None = Field(None, description="lowest recall of a class, of the artefact")
    worst_recall_change: float | None = Field(
        None, description="largest fall of a class's recall by compression, as a negative number"
    )
    num_parameters: int
    fp32_bytes: int
    artefact_bytes: int
    artefact_path: str | None
    artefact_digest: str
    student_digest: str
    latency_seconds_batch1: float | None
    teacher_latency_seconds_batch1: float | None
    bytes_down: int
    bytes_up: int
    public_sample_bytes: int
    evaluation_bytes: int = Field(description="evaluation inputs down and predictions up, apart from bytes_*")
    artefact_upload_bytes: int
    num_rounds: int
    num_state_resets: int
    learned_together: bool = Field(
        False, description="the student was trained in a batch of students, as federation.cohort has it"
    )
    device: DeviceSummary | None = Field(None, description="null where the node has no device profile")
    choices: list[ChoiceSummary] = Field(
        [], description="by round, where nodes set temperature, lambda and stop for themselves"
    )
    quality: NodeQuality | None = Field(None, description="of a few nodes; see monitoring.quality_nodes")


class FleetSummary(Record):
    """Means over nodes and sums of traffic."""

    accuracy_mean: float | None
    accuracy_p5: float | None
    accuracy_min: float | None
    private_accuracy_mean: float | None
    local_accuracy_mean: float | None
    uncompressed_accuracy_mean: float | None = None
    local_private_accuracy_mean: float | None
    bytes_down: int
    bytes_up: int
    public_sample_bytes: int
    wire_bytes_actual: int
    fedavg_bytes: int
    artefact_bytes_mean: float | None
    num_learned_together: int = Field(0, description="nodes whose students were trained in batches of them")


class RoundSummary(Record):
    """One committed round."""

    round: int
    accuracy_mean: float | None
    num_sampled: int
    num_replied: int
    num_dropped: int
    num_late: int
    gap: float | None
    seconds: float


class Summary(Record):
    """All of `summary.json`."""

    schema_version: int = Field(1, alias="schema")
    run_id: str
    scheme: str
    dataset: str
    seed: int
    version: str
    versions: dict[str, str] = Field(
        default_factory=dict, description="of Python, the system and the packages that figures depend on"
    )
    wall_seconds: float
    num_resumes: int
    stopped_because: str
    eval_set: dict[str, str | int] = Field(description="digest and num_samples of the evaluation set")
    teacher: TeacherSummary | None
    nodes: list[NodeSummary]
    fleet: FleetSummary
    rounds: list[RoundSummary]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


SCHEMA_PATH = Path(__file__).with_name("summary.schema.json")


def json_schema() -> str:
    """Writes the JSON Schema of `summary.json`."""
    schema = Summary.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def read_summary(run_dir: Path) -> Summary:
    """Reads a finished run's summary.

    Args:
        run_dir: The run folder.

    Returns:
        The validated summary.

    Raises:
        DataError: The folder holds no summary, or one of another schema.
    """
    path = run_dir / "summary.json"
    try:
        return Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"expected a finished run with {path}; give the folder of a finished run") from None
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} does not fit this version's schema: {first}") from None
