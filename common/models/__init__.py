"""Model families: a registry of builders, from raw samples to logits.

Every model takes raw samples as the data file has them; conversion and
normalisation are its first layer, so that an exported artefact needs no code of
ours to prepare its input.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fedstill.common.errors import ConfigError, unknown_name
from fedstill.common.models.cnn import build_cnn_large, build_cnn_medium, build_cnn_small, build_cnn_tiny
from fedstill.common.models.foreign import adopt_builder
from fedstill.common.models.inputs import InputSpec, Preprocess, measure_input
from fedstill.common.models.mlp import build_mlp_large, build_mlp_small
from fedstill.common.models.registry import ModelFamily
from fedstill.common.models.resnet import build_cnn_separable, build_resnet_small
from fedstill.common.models.sequence import (
    build_kmer_bag,
    build_kmer_bag_large,
    build_sequence_cnn,
    build_sequence_cnn_large,
)
from fedstill.common.models.series import build_series_cnn, build_series_cnn_large, build_series_gru
from fedstill.common.models.text import (
    build_embedding_bag,
    build_embedding_bag_large,
    build_text_cnn,
    build_text_cnn_large,
    build_transformer_small,
)
from fedstill.common.modules import is_reference
from fedstill.common.registry import Registry, require_callable

ALL = ("image", "tabular", "series", "text", "sequence")
"""Kinds of samples."""

__all__ = [
    "MODELS",
    "InputSpec",
    "ModelFamily",
    "build_model",
    "find_family",
    "measure_input",
    "resolve_model",
]


def _as_family(found: Any, name: str) -> ModelFamily:
    if isinstance(found, ModelFamily):
        return ModelFamily(adopt_builder(found.build, name), found.tasks)
    signature = "a function of (spec, *, num_classes, width)"
    return ModelFamily(
        adopt_builder(require_callable(found, name, key="model", signature=signature), name), ALL
    )


MODELS: Registry[ModelFamily] = Registry(
    "model",
    "fedstill.models",
    {
        "cnn-tiny": ModelFamily(build_cnn_tiny, tasks=("image",)),
        "cnn-small": ModelFamily(build_cnn_small, tasks=("image",)),
        "cnn-medium": ModelFamily(build_cnn_medium, tasks=("image",)),
        "cnn-large": ModelFamily(build_cnn_large, tasks=("image",)),
        "cnn-separable": ModelFamily(build_cnn_separable, tasks=("image",)),
        "resnet-small": ModelFamily(build_resnet_small, tasks=("image",)),
        "mlp-small": ModelFamily(build_mlp_small, tasks=("image", "tabular", "series")),
        "mlp-large": ModelFamily(build_mlp_large, tasks=("image", "tabular", "series")),
        "series-cnn": ModelFamily(build_series_cnn, tasks=("series",)),
        "series-cnn-large": ModelFamily(build_series_cnn_large, tasks=("series",)),
        "series-gru": ModelFamily(build_series_gru, tasks=("series",)),
        "embedding-bag": ModelFamily(build_embedding_bag, tasks=("text",)),
        "embedding-bag-large": ModelFamily(build_embedding_bag_large, tasks=("text",)),
        "text-cnn": ModelFamily(build_text_cnn, tasks=("text",)),
        "text-cnn-large": ModelFamily(build_text_cnn_large, tasks=("text",)),
        "transformer-small": ModelFamily(build_transformer_small, tasks=("text",)),
        "sequence-cnn": ModelFamily(build_sequence_cnn, tasks=("sequence",)),
        "sequence-cnn-large": ModelFamily(build_sequence_cnn_large, tasks=("sequence",)),
        "kmer-bag": ModelFamily(build_kmer_bag, tasks=("sequence",)),
        "kmer-bag-large": ModelFamily(build_kmer_bag_large, tasks=("sequence",)),
    },
    _as_family,
)
"""Model families; a stranger's function of (spec, *, num_classes, width) is one for all kinds of samples."""

# What "auto" chooses for teacher and student; images go by their size.
_AUTO = {
    "tabular": ("mlp-large", "mlp-small"),
    "series": ("series-cnn-large", "series-cnn"),
    "text": ("embedding-bag-large", "embedding-bag"),
    "sequence": ("kmer-bag-large", "kmer-bag"),
}


def find_family(name: str, *, role: str) -> ModelFamily:
    """Looks a model family up for a teacher or a student; raises `ConfigError` with the known names."""
    if name not in MODELS.names() and not is_reference(name):
        raise unknown_name(f"{role} model", name, ["auto", *MODELS.names()])
    return MODELS[name]


def resolve_model(name: str, *, role: str, spec: InputSpec) -> str:
    """Turns a configured model name into a registered one.

    Args:
        name: A name of the registry, or "auto".
        role: "teacher" or "student"; what "auto" chooses for.
        spec: The samples that the model takes.

    Returns:
        A name of the registry.

    Raises:
        ConfigError: The name is unknown, or its family takes other samples.
    """
    if name == "auto":
        if spec.task != "image":
            return _AUTO[spec.task][0 if role == "teacher" else 1]
        _, height, width = spec.channels_first_shape
        is_small = min(height, width) < 16
        if role == "teacher":
            return "cnn-medium" if is_small else "cnn-large"
        return "cnn-tiny" if is_small else "cnn-small"
    family = find_family(name, role=role)
    if spec.task not in family.tasks:
        fitting = [other for other in MODELS if spec.task in MODELS[other].tasks]
        raise ConfigError(
            f"{role}.model: {name} takes {' or '.join(family.tasks)} samples, the data holds"
            f" {spec.task}; use one of {', '.join(fitting)}"
        )
    return name


def build_model(name: str, spec: InputSpec, *, num_classes: int, width: float = 1.0) -> nn.Module:
    """Builds a model with freshly initialised weights.

    Args:
        name: A name of the registry.
        spec: The samples that it takes; normalisation comes from here.
        num_classes: Logits that it returns.
        width: Multiplies the widths of the hidden layers.

    Returns:
        A module from raw samples (S, *sample_shape) to logits (S, C). Seed torch's
        default generator first where the weights have to be reproducible.

    Raises:
        ConfigError: The name is unknown or the samples are too small for it.
    """
    body = MODELS[name].build(spec, num_classes=num_classes, width=width)
    return nn.Sequential(Preprocess(spec), body)
