"""ExecuTorch programs: PT2E static 8 bits, lowered to XNNPACK.

Weights are int8 per output channel, activations int8 per tensor. The pooling that ends
most networks keeps its axes on the way to the quantiser, which would leave it in floats.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fedstill.common.errors import FedStillError, UsageError
from fedstill.common.installation import install_command
from fedstill.common.models import InputSpec
from fedstill.common.tracing import find_untraceable_layer
from fedstill.common.training import deterministic

_BATCH_SIZE = 64
_REMEDY = "take the runtime onnx"


def lower_to_pte(model: nn.Module, spec: InputSpec, *, calibration_S: np.ndarray | None) -> bytes:
    """Lowers a model to an ExecuTorch program for one sample.

    Args:
        model: A model from raw samples to logits.
        spec: The samples that it takes.
        calibration_S: Raw samples (S, *sample_shape) whose activations set the ranges of
            8 bits; None lowers the model in floats.

    Returns:
        The content of `model.pte`; the same weights and samples give the same bytes.

    Raises:
        UsageError: ExecuTorch is not installed.
        FedStillError: The model cannot be traced or lowered (the layer is named), or
            calibration samples are missing or of another shape.
    """
    if calibration_S is not None:
        check_calibration(calibration_S, spec)
    _refuse_recurrence(model)
    model.eval()
    with _quiet(), deterministic(0, num_threads=1), torch.no_grad():
        try:
            import executorch.exir  # noqa: F401
            import torchao.quantization.pt2e  # noqa: F401
        except ImportError as error:
            raise UsageError(f"ExecuTorch is not installed ({error}): {install_command('edge')}") from None
        example = torch.zeros((1, *spec.sample_shape), dtype=getattr(torch, spec.dtype))
        module = model if calibration_S is None else _quantise(model, calibration_S)
        return _lower(_trace(module, (example,), origin=model))


def _refuse_recurrence(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            raise FedStillError(
                f"ExecuTorch unrolls the layer {name} ({type(module).__name__}) step by step, which makes it"
                f" larger and slower; {_REMEDY}"
            )


def check_calibration(calibration_S: np.ndarray, spec: InputSpec) -> None:
    """Compares calibration samples with what a model takes.

    Args:
        calibration_S: Raw samples.
        spec: What the model takes.

    Raises:
        FedStillError: There are none, or they have another shape or type.
    """
    if len(calibration_S) == 0:
        raise FedStillError("static quantisation needs samples to calibrate with, got none")
    found, expected = (calibration_S.shape[1:], str(calibration_S.dtype)), (spec.sample_shape, spec.dtype)
    if found != expected:
        raise FedStillError(
            f"calibration samples are {found[1]} {found[0]}, the model takes {expected[1]} {expected[0]}"
        )


def _trace(module: nn.Module, example: tuple[torch.Tensor, ...], *, origin: nn.Module, **options: Any) -> Any:
    try:
        return torch.export.export(module, example, **options)
    except Exception as error:  # noqa: BLE001 whatever a user's layer raises
        layer = find_untraceable_layer(origin, example[0])
        raise FedStillError(f"cannot trace the layer {layer} for ExecuTorch: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _quantise(model: nn.Module, calibration_S: np.ndarray) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    # Observed in batches: one by one takes as many times longer.
    batches = [
        torch.from_numpy(np.array(calibration_S[start : start + _BATCH_SIZE]))
        for start in range(0, len(calibration_S), _BATCH_SIZE)
    ]
    example = batches[0] if len(batches[0]) > 1 else batches[0].repeat_interleave(2, dim=0)
    shapes = ({0: torch.export.Dim("batch", min=1, max=_BATCH_SIZE)},)
    graph = _trace(model, (example,), origin=model, dynamic_shapes=shapes).module()
    _keep_pooled_axes(graph)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    try:
        prepared = prepare_pt2e(graph, quantizer)
        for batch in batches:
            prepared(batch)
        converted: nn.Module = convert_pt2e(prepared)
    except RuntimeError as error:  # as where ids are computed with, which it takes for values
        raise FedStillError(
            f"ExecuTorch cannot quantise this model: {_first_line(error)}; {_REMEDY}"
        ) from None
    return converted


def _keep_pooled_axes(module: torch.fx.GraphModule) -> None:
    """Rewrites means over space so that XNNPACK takes them: axes kept, then dropped."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.target == torch.ops.aten.mean.dim]:
        features, axes, *rest = node.args
        if any(rest) or node.kwargs or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        node.args = (features, axes, True)
        with graph.inserting_after(node):
            dropped = graph.call_function(torch.ops.aten.squeeze.dims, (node, axes))
        dropped.meta = dict(node.meta)
        dropped.meta["val"] = node.meta["val"]
        node.meta["val"] = node.meta["val"].unsqueeze(-1).unsqueeze(-1)
        node.replace_all_uses_with(dropped, delete_user_cb=lambda user: user is not dropped)  # noqa: B023
    module.recompile()


def _lower(program: Any) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)
    except Exception as error:  # noqa: BLE001 ExecuTorch's errors share no base
        raise FedStillError(f"ExecuTorch cannot lower this model: {_first_line(error)}; {_REMEDY}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    # torchao and ExecuTorch warn of kernels that are not for this machine and of their own deprecations.
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
