"""The configuration: every key typed, ranged, documented and defaulted here.

It is read from one TOML file, from `--set key=value` and from Flower's run
configuration (flat, dotted keys); all three meet in `Config`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import ConfigError

Scalar = bool | int | float | str
Unit = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """One table of the configuration; unknown keys are errors."""

    model_config = ConfigDict(
        allow_inf_nan=False, extra="forbid", frozen=True, populate_by_name=True, strict=True
    )


class DataConfig(Section):
    """Where the samples come from and how they are split."""

    source: str = Field(
        "digits",
        description="built-in name (digits, mnist-5k) or a path to your data; $VARIABLES are expanded",
    )
    task: Literal["auto", "image", "tabular", "series"] = Field(
        "auto", description="kind of samples; auto infers it from shape and type"
    )
    num_server: float = Field(
        0.3,
        gt=0,
        description="server's labelled samples: a count (above 1) or a fraction of the training part",
    )
    num_public: float = Field(
        0.4, gt=0, description="public samples, whose labels no student sees: a count or a fraction"
    )
    label_column: str = Field("label", description="column of a CSV that holds the class")
    group_column: str = Field(
        "", description="column of a CSV that groups samples (person, site); empty: none"
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

    model: str = Field("auto", description="name from the model registry; auto goes by the samples' shape")
    checkpoint: str = Field("", description="a .safetensors file of the model's weights: held, not trained")
    factory: str = Field(
        "", description="module:function that returns the teacher as a torch module; empty: `model`"
    )
    num_epochs: int = Field(40, ge=1, le=10_000, description="upper limit of epochs over the server's set")
    patience: int = Field(8, ge=1, description="epochs without a better validation loss before it stops")
    batch_size: int = Field(64, ge=1, description="samples per step")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak of AdamW's one-cycle schedule")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's decoupled weight decay")
    augment: bool = Field(True, description="shift images by up to a pixel in eight while the teacher trains")
    num_threads: int = Field(2, ge=1, le=256, description="threads that train it; results depend on them")
    min_accuracy: Unit = Field(0.5, description="validation accuracy below which a warning is given")


class StudentConfig(Section):
    """The small models that the devices run."""

    model: str = Field(
        "auto", description="name from the model registry, or several with commas: nodes take them in turn"
    )
    width: float = Field(1.0, gt=0, le=16, description="multiplies the student's layer widths")
    plan: Literal["fixed"] = Field("fixed", description="how student and compression are chosen per node")


class DistillConfig(Section):
    """How a student learns from soft labels and from its private data."""

    loss: str = Field("kl", description="name from the loss registry")
    temperature: float = Field(4.0, gt=0, le=100, description="softens teacher and student alike")
    lambda_: float = Field(
        0.9,
        ge=0,
        le=1,
        alias="lambda",
        description="weight of the distillation loss; the rest weighs private labels",
    )
    mode: Literal["fixed"] = Field("fixed", description="how temperature and lambda are set")
    num_epochs: int = Field(20, ge=1, le=10_000, description="passes over the public set in each round")
    batch_size: int = Field(32, ge=1, description="public samples per step; private ones come beside them")
    learning_rate: float = Field(
        5e-3, gt=0, le=10, description="peak of AdamW's one-cycle schedule, per round"
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="AdamW's decoupled weight decay")


class CompressConfig(Section):
    """What is done to a student before it becomes an artefact."""

    bits: Literal[8, 32] = Field(
        8, description="bits of weights and activations in the artefact; 32 leaves floats"
    )
    num_calibration: int = Field(
        256, ge=1, description="public samples that set the ranges of static quantisation"
    )


class FederationConfig(Section):
    """Nodes, rounds and what is exchanged."""

    scheme: str = Field("teacher", description="what is exchanged: teacher, or local for no exchange")
    num_nodes: int = Field(8, ge=1, le=100_000, description="nodes of the federation")
    num_rounds: int = Field(3, ge=1, le=10_000, description="upper limit of rounds")
    partitioner: str = Field("dirichlet", description="name from the partitioner registry")
    alpha: float = Field(0.5, gt=0, description="dirichlet: concentration; small is skewed")
    min_samples_per_node: int = Field(8, ge=0, description="dirichlet: samples that every node gets at least")
    labels_per_node: int = Field(2, ge=1, description="shards: distinct label shards per node")
    empty_nodes: Literal["refuse", "skip"] = Field("refuse", description="what a node without data means")
    sample_fraction: float = Field(1.0, gt=0, le=1, description="nodes sampled for each round")
    quorum: float = Field(1.0, gt=0, le=1, description="share of sampled nodes whose replies close the round")
    deadline_seconds: float = Field(
        0.0, ge=0, description="a round closes after this long in any case; 0: never"
    )
    target_gap: float = Field(
        0.0, ge=0, le=1, description="stop when students are this near to the teacher on validation parts"
    )
    wait_seconds: float = Field(
        60.0, gt=0, description="how long to wait for all nodes to introduce themselves"
    )
    num_actors: int = Field(
        0, ge=0, description="Ray actors that host the nodes; 0: one per CPU, num_nodes at most"
    )
    threads_per_node: int = Field(1, ge=1, le=256, description="threads that train one student")
    control_fraction: Unit = Field(1.0, description="nodes that also train the `local` control at the end")


class ExchangeConfig(Section):
    """How labels and samples travel."""

    codec: str = Field("lp8", description="name from the codec registry")
    chunk_bytes: int = Field(
        1_048_576, ge=4096, le=3_145_728, description="decoded bytes per chunk, about; gRPC's limit is 4 MiB"
    )
    host: str = Field("127.0.0.1", description="address that the label service binds")
    port: int = Field(0, ge=0, le=65535, description="port of the label service; 0: a free one")
    advertise_address: str = Field(
        "", description="host or host:port that nodes are told; empty: the bound one"
    )
    public_samples: Literal["stream", "local"] = Field(
        "stream", description="nodes fetch the public samples, or have them and check their digest"
    )
    collect_artefacts: bool = Field(
        True, description="nodes send student and artefact after their last round"
    )
    cache_dir: str = Field("", description="label cache and node store; empty: the user's cache folder")
    timeout_seconds: float = Field(60.0, gt=0, description="longest silence on a stream before it is resumed")


class PrivacyConfig(Section):
    """What protects the nodes' own logits; schemes so far send none."""


class MonitoringConfig(Section):
    """What Prometheus sees."""

    enabled: bool = Field(True, description="serve /metrics and /metrics/nodes while a run lives")
    host: str = Field("127.0.0.1", description="address of the metrics endpoint")
    port: int = Field(0, ge=0, le=65535, description="port of the metrics endpoint; 0: a free one")
    max_node_series: int = Field(10_000, ge=0, description="nodes that get series of their own at most")


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
        if self.teacher.checkpoint and not self.teacher.checkpoint.endswith(".safetensors"):
            raise ValueError(
                f"teacher.checkpoint: expected a .safetensors file, got {self.teacher.checkpoint!r}"
            )
        for key in ("num_server", "num_public"):
            value = getattr(self.data, key)
            if value > 1 and value != int(value):
                raise ValueError(f"data.{key}: expected a whole count above 1 or a fraction, got {value}")
        if self.data.private_validation_fraction + self.data.private_test_fraction >= 1:
            raise ValueError(
                "data.private_validation_fraction and data.private_test_fraction leave nothing to train on;"
                " their sum has to be below 1"
            )
        return self


def _sections() -> dict[str, type[Section]]:
    found = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found


def defaults() -> dict[str, Scalar]:
    """Lists every key with its default, flat and dotted, in the order of the schema."""
    return flatten(Config())


def flatten(config: Config) -> dict[str, Scalar]:
    """Turns a configuration into flat, dotted keys, as Flower's run configuration has them."""
    flat: dict[str, Scalar] = {}
    for key, value in config.model_dump(by_alias=True).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def build_config(values: Mapping[str, Any]) -> Config:
    """Validates flat, dotted keys.

    Args:
        values: Values by dotted key; what is missing takes its default.

    Returns:
        The configuration.

    Raises:
        ConfigError: An unknown key (the nearest known one is named) or a value of
            a wrong type or out of range.
    """
    known = defaults()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            if not near:
                leaf = key.rsplit(".", 1)[-1]
                near = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
            hint = f"did you mean {near[0]}?" if near else "`fedstill config` lists the known keys."
            raise ConfigError(f"unknown configuration key {key}; {hint}")
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(known[key], float):
            value = _as_float(value)
        section, _, name = key.rpartition(".")
        if section:
            nested.setdefault(section, {})[name] = value
        else:
            nested[name] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # refused like any other infinity
        return float("inf")


def from_run_config(run_config: Mapping[str, Any]) -> Config:
    """Reads Flower's run configuration; keys of the launch itself, `run.…`, are not ours to read."""
    return build_config({key: value for key, value in run_config.items() if not key.startswith("run.")})


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if not key:
        return str(message)
    return f"{key}: {message[0].lower()}{message[1:]}, got {detail['input']!r}"


def load_config(path: Path | None = None, *, overrides: Iterable[str] = ()) -> Config:
    """Reads a TOML file and applies `key=value` overrides.

    Args:
        path: The file; None is the embedded default.
        overrides: Items such as "distill.temperature=2"; values are TOML, and
            what is no TOML value is taken as text, and lists are joined by commas.

    Returns:
        The configuration.

    Raises:
        ConfigError: The file is missing or no TOML, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
        values.update(_flatten_document(document))
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set takes key=value, got {item!r}")
        values[key.strip()] = _parse_scalar(text.strip(), key=key.strip())
    return build_config(values)


def _flatten_document(document: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": _joined(inner) for name, inner in value.items()})
        else:
            flat[key] = _joined(value)
    return flat


def _joined(value: Any) -> Any:
    # Flower's run configuration holds scalars only, so lists travel as text.
    return ",".join(str(item) for item in value) if isinstance(value, list) else value


def _parse_scalar(text: str, *, key: str) -> Any:
    try:
        value = _joined(tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return text
    # A name such as 2024 or true stays the text that it is where text is expected.
    return text if isinstance(defaults().get(key), str) and not isinstance(value, str) else value


def to_toml(config: Config) -> str:
    """Writes a configuration as TOML that `load_config` reads back."""
    return tomli_w.dumps(config.model_dump(by_alias=True))


def reference() -> str:
    """Writes the annotated reference: every key, its meaning, its range and its default."""
    lines = ["# FedStill's configuration: every key with its default.", ""]
    lines += _describe_fields(Config, skip=set(_sections()))
    for name, section in _sections().items():
        lines += ["", f"[{name}]", f"# {(section.__doc__ or '').strip()}"]
        lines += _describe_fields(section, skip=set())
    return "\n".join(lines) + "\n"


def _describe_fields(section: type[Section], *, skip: set[str]) -> list[str]:
    lines = []
    schema = section.model_json_schema(by_alias=True)["properties"]
    for name, field in section.model_fields.items():
        if name in skip:
            continue
        key = field.alias or name
        limits = _describe_limits(schema[key])
        lines.append(f"# {field.description}{f' ({limits})' if limits else ''}")
        lines.append(tomli_w.dumps({key: field.default}).strip())
    return lines


def _describe_limits(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        limits.append("one of " + ", ".join(str(choice) for choice in choices))
    return ", ".join(limits)
