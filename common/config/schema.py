"""The schema: every key typed, ranged, documented and defaulted here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedstill.common.compressors import CompressionPlan, make_plan
from fedstill.common.config.federation import FederationConfig
from fedstill.common.config.section import Section, Unit


class DataConfig(Section):
    """Where the samples come from and how they are split."""

    source: str = Field(
        "digits",
        description="built-in name (digits, mnist-5k, bbc-news, gene-families), a path to your data, hf:NAME"
        " or module:function; $VARIABLES are expanded",
    )
    task: Literal["auto", "image", "tabular", "series", "text", "sequence"] = Field(
        "auto", description="kind of samples; auto infers it from shape, type and column names"
    )
    num_server: float = Field(
        0.3,
        gt=0,
        description="server's labelled samples: a count (above 1) or a fraction of the training part",
    )
    num_public: float = Field(
        0.4, gt=0, description="public samples, whose labels no student sees: a count or a fraction"
    )
    private: Literal["split", "nodes"] = Field(
        "split",
        description="split: nodes get partitions of this source; nodes: devices bring data of their own",
    )
    label_column: str = Field("label", description="column of a CSV that holds the class")
    group_column: str = Field(
        "", description="column of a CSV that groups samples (person, site); empty: none"
    )
    vocabulary_size: int = Field(
        4096,
        ge=16,
        le=32_768,
        description="text: ids of the tokeniser at most, which knows the server's and the public words",
    )
    tokenizer: str = Field(
        "",
        description="text: a tokenizer.json of Hugging Face's library that makes the ids instead; empty: a"
        " vocabulary of our own",
    )
    max_length: int = Field(
        0,
        ge=0,
        le=65_536,
        description="text and sequence: words or letters read per sample; 0: chosen by the data",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="evaluation set cut off by seed where the data has no test part"
    )
    server_validation_fraction: float = Field(
        0.15, gt=0, lt=1, description="part of the server's set kept for validation"
    )
    private_validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="part of each partition kept for the node's validation"
    )
    private_test_fraction: float = Field(
        0.2, ge=0, lt=1, description="part of each partition kept for the node's own test"
    )


class TeacherConfig(Section):
    """The large model whose knowledge is distilled."""

    model: str = Field(
        "auto",
        description="name from the model registry or module:function; auto goes by the samples' shape",
    )
    checkpoint: str = Field("", description="a .safetensors file of the model's weights: held, not trained")
    factory: str = Field(
        "", description="module:function that returns the teacher as a torch module; empty: `model`"
    )
    labels: str = Field(
        "",
        description="soft labels from elsewhere instead of a model: an .npz or .parquet for what `fedstill"
        " teacher public` wrote; empty: none",
    )
    num_epochs: int = Field(40, ge=1, le=10_000, description="upper limit of epochs over the server's set")
    patience: int = Field(8, ge=1, description="epochs without a better validation loss before it stops")
    batch_size: int = Field(64, ge=1, description="samples per step")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak of AdamW's one-cycle schedule")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's decoupled weight decay")
    augment: bool = Field(True, description="shift images by up to a pixel in eight while the teacher trains")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="what trains it and labels with it; auto: a GPU where there is one"
    )
    num_threads: int = Field(2, ge=1, le=256, description="threads that train it; results depend on them")
    min_accuracy: Unit = Field(0.5, description="validation accuracy below which a warning is given")


class StudentConfig(Section):
    """The small models that the devices run."""

    model: str = Field(
        "auto",
        description="name from the model registry or module:function, or several with commas: nodes take"
        " them in turn",
    )
    width: float = Field(1.0, gt=0, le=16, description="multiplies the student's layer widths")
    plan: Literal["fixed", "auto"] = Field(
        "fixed",
        description="fixed: as these keys and [compress] say; auto: planned for each node's device profile",
    )


class DistillConfig(Section):
    """How a student learns from soft labels and from its private data."""

    loss: str = Field(
        "kl",
        description="name from the loss registry or module:function; hint and attention compare features"
        " beside soft labels",
    )
    feature_weight: float = Field(
        1.0, ge=0, le=1000, description="hint, attention: weight of the features beside the soft labels"
    )
    temperature: float = Field(4.0, gt=0, le=100, description="softens teacher and student alike")
    lambda_: float = Field(
        0.9,
        ge=0,
        le=1,
        alias="lambda",
        description="weight of the distillation loss; the rest weighs private labels",
    )
    mode: Literal["fixed", "auto"] = Field(
        "fixed",
        description="auto: each node sets temperature, lambda and stop in each round, by its own validation"
        " part, so that its private accuracy keeps that of private data alone",
    )
    num_views: int = Field(
        1,
        ge=1,
        le=256,
        description="views of each public sample that are labelled: itself, and changed copies which students"
        " make again from a stored seed; a round's steps stay those of one view",
    )
    mixup_ratio: Unit = Field(
        0.0, description="share of the changed copies that are mixed with another public sample"
    )
    flip_views: bool = Field(
        False, description="changed copies of images may be mirrored; not where left and right matter"
    )
    num_epochs: int = Field(
        20,
        ge=1,
        le=10_000,
        description="passes over the public set in each round; unused with federation.local_epochs",
    )
    batch_size: int = Field(
        32, ge=1, description="public samples per step, half as many private ones beside; or all private ones"
    )
    learning_rate: float = Field(5e-3, gt=0, le=10, description="highest of the schedule, in each round")
    weight_decay: float = Field(
        1e-4,
        ge=0,
        le=1,
        description="weight decay: decoupled with adamw, part of the gradient with adam and sgd",
    )
    optimiser: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="trains students, anew in each round"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd: share of the last step in the next")
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        "one-cycle",
        description="learning rate within a round: up for a fifth of the steps and down, down, or as it is",
    )


class CompressConfig(Section):
    """What is done to a student before it becomes an artefact."""

    steps: str = Field(
        "quantise",
        description="prune, sparsify, lowrank, quantise: those wanted, in this order; empty: none",
    )
    prune_ratio: float = Field(0.5, gt=0, lt=1, description="prune: part of each layer's channels that goes")
    importance: Literal["magnitude", "taylor", "bn_scale"] = Field(
        "magnitude", description="prune: what says which channels go first"
    )
    sparsity: float = Field(0.9, gt=0, lt=1, description="sparsify: part of the weights that becomes zero")
    pattern: str = Field(
        "unstructured", description="sparsify: unstructured, or n:m, where n of m neighbouring weights stay"
    )
    energy: float = Field(
        0.9, gt=0, le=1, description="lowrank: part of a matrix' squared singular values that is kept"
    )
    rank: int = Field(0, ge=0, le=65_536, description="lowrank: rank at most; 0: by energy alone")
    bits: Literal[32, 8, 4, 1] = Field(
        8,
        description="quantise: bits of the weights; 8 (activations too) computes faster, 4 and 1 only store"
        " smaller, 32 leaves floats",
    )
    group_size: int = Field(
        32, ge=8, le=1024, description="quantise: weights that share one scale, at 4 bits"
    )
    qat: bool = Field(False, description="quantise: train with the weights of 4 or 1 bits to come")
    storage: Literal["plain", "packed"] = Field(
        "plain",
        description="packed: a smaller file of the same model, unpacked when it is opened; sparsify and 1 bit"
        " take it anyhow",
    )
    runtime: str = Field(
        "onnx", description="what runs the artefact: onnx, executorch or an exporter of yours"
    )
    num_calibration: int = Field(
        256, ge=1, description="public samples that set the ranges of static quantisation"
    )

    @field_validator("bits", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        if value is True:  # which equals 1
            raise ValueError("expected 32, 8, 4 or 1")
        return value

    @property
    def plan(self) -> CompressionPlan:
        """These keys as one checked plan; raises `ConfigError` where they contradict each other."""
        return make_plan(**self.model_dump())


class ExchangeConfig(Section):
    """How labels and samples travel."""

    codec: str = Field(
        "lp8",
        description="name from the codec registry or module:name; auto: by the classes and each node's link",
    )
    label_seconds: float = Field(
        10.0, gt=0, le=86_400, description="codec auto: longest that a label set may take on a node's link"
    )
    chunk_bytes: int = Field(
        1_048_576, ge=4096, le=3_145_728, description="decoded bytes per chunk, about; gRPC's limit is 4 MiB"
    )
    host: str = Field("127.0.0.1", description="address that the label service binds")
    port: int = Field(0, ge=0, le=65535, description="port of the label service; 0: a free one")
    advertise_address: str = Field(
        "", description="host or host:port that nodes are told; empty: the bound one"
    )
    certificates_dir: str = Field(
        "",
        description="folder that `fedstill certs init` filled: the label service speaks mutual TLS; empty:"
        " plaintext",
    )
    allow_insecure: bool = Field(
        False, description="plaintext on other than loopback, for networks that you trust"
    )
    public_samples: Literal["stream", "local"] = Field(
        "stream", description="nodes fetch the public samples, or have them and check their digest"
    )
    collect_artefacts: bool = Field(
        True, description="nodes send student and artefact after their last round"
    )
    cache_dir: str = Field("", description="label cache and node store; empty: the user's cache folder")
    cache_bytes: int = Field(
        20_000_000_000,
        ge=0,
        description="label cache: arrays used longest ago make room beyond this; 0: no limit",
    )
    timeout_seconds: float = Field(60.0, gt=0, description="longest silence on a stream before it is resumed")


class PrivacyConfig(Section):
    """No key yet: the logits, class means or weights that most schemes' nodes send are not protected."""


class MonitoringConfig(Section):
    """What Prometheus sees."""

    enabled: bool = Field(True, description="serve /metrics and /metrics/nodes while a run lives")
    host: str = Field("127.0.0.1", description="address of the metrics endpoint")
    port: int = Field(0, ge=0, le=65535, description="port of the metrics endpoint; 0: a free one")
    max_node_series: int = Field(10_000, ge=0, description="nodes that get series of their own at most")
    targets_dir: str = Field(
        "",
        description="folder of Prometheus' file discovery that names this run while it lives, and until its"
        " last figures were scraped, 30 s at most; empty: none",
    )
    log: Literal["text", "json"] = Field(
        "text", description="standard error: lines for people, or one JSON object per event"
    )
    quality_nodes: int = Field(
        4,
        ge=0,
        le=16,
        description="nodes whose collected artefact is compared with the teacher and with its uncompressed"
        " student at the end; 0: none, and the report shows no samples",
    )


class Config(Section):
    """A federation, completely."""

    seed: int = Field(0, ge=0, lt=2**63, description="seeds every random stream")
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    compress: CompressConfig = CompressConfig()
    federation: FederationConfig = FederationConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

    @model_validator(mode="after")
    def _holds_together(self) -> Config:
        plan = self.compress.plan
        if self.distill.momentum and self.distill.optimiser != "sgd":
            raise ValueError(
                f"distill.momentum is for distill.optimiser = sgd, and that is {self.distill.optimiser}:"
                " choose sgd, or leave momentum out"
            )
        if self.distill.loss in ("hint", "attention") and plan.changes_training:
            raise ValueError(
                f"distill.loss {self.distill.loss} compares features of one width: take another loss, or"
                " compress.steps=quantise without compress.qat"
            )
        if self.teacher.checkpoint and not self.teacher.checkpoint.endswith(".safetensors"):
            raise ValueError(
                f"teacher.checkpoint: expected a .safetensors file, got {self.teacher.checkpoint!r}"
            )
        if self.teacher.labels and (self.teacher.checkpoint or self.teacher.factory):
            other = "checkpoint" if self.teacher.checkpoint else "factory"
            raise ValueError(f"teacher.labels and teacher.{other} name two teachers: set one of them")
        for key in ("num_server", "num_public"):
            value = getattr(self.data, key)
            if value > 1 and value != int(value):
                raise ValueError(f"data.{key}: expected a whole count above 1 or a fraction, got {value}")
        if self.federation.min_nodes > self.federation.num_nodes:
            raise ValueError(
                f"federation.min_nodes: expected at most federation.num_nodes = {self.federation.num_nodes},"
                f" got {self.federation.min_nodes}"
            )
        if self.data.private_validation_fraction + self.data.private_test_fraction >= 1:
            raise ValueError(
                "data.private_validation_fraction and data.private_test_fraction leave nothing to train on;"
                " their sum has to be below 1"
            )
        return self


def sections() -> dict[str, type[Section]]:
    """Lists the tables of the configuration by name, in order."""
    found = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found
