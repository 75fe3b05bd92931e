"""Runs the grid: one training for all plans that share a shape, one row for each plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from fedstill.common.compressors import CompressionPlan, without_compression
from fedstill.common.config import DataConfig
from fedstill.common.errors import FedStillError, UsageError
from fedstill.common.files import write_bytes_atomically
from fedstill.common.inference import describe_host
from fedstill.common.losses import get_loss
from fedstill.common.training import predict_logits
from fedstill.server.compress.folder import PICTURE_FILE, open_folder, read_row, slug, write_front, write_row
from fedstill.server.compress.given import Given, export_graph, load_given, predict_all
from fedstill.server.compress.material import load_material
from fedstill.server.compress.measuring import export_plan, measure_row, measure_speed
from fedstill.server.compress.picture import draw_front
from fedstill.server.compress.plans import make_grid, name_plan, training_part
from fedstill.server.compress.records import Budget, Front, Material, Row, find_front
from fedstill.server.compress.training import train_plan

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    model: str
    data: DataConfig
    output_dir: Path
    plans: tuple[str, ...] = ()
    model_name: str = "auto"
    width: float = 1.0
    budget: Budget = field(default_factory=Budget)
    validation_fraction: float = 0.15
    calibration: str = ""
    num_calibration: int = 256
    seed: int = 0
    num_threads: int = 1
    """Threads of training; every latency is of one thread."""
    latency_budget_seconds: float = 0.5


def compress_model(request: Request, *, say: Say) -> Front:
    """Compresses a model in several ways and measures each.

    Rows that the folder holds already, of the same model, data and budget, are not made again;
    latencies are measured anew for all rows together.

    Args:
        request: What was asked for.
        say: Told of each row in one line.

    Returns:
        The front, which is written beside its picture and the artefacts.

    Raises:
        UsageError: Model, data, plans or folder do not fit.
    """
    get_loss(request.budget.loss)
    plans, notes = make_grid(request.plans, num_calibration=request.num_calibration)
    material = load_material(
        request.data,
        seed=request.seed,
        validation_fraction=request.validation_fraction,
        num_calibration=request.num_calibration,
        calibration=request.calibration,
        encoder_path=Path(request.model).with_name("encoder.json"),
    )
    given = load_given(
        request.model,
        model_name=request.model_name,
        width=request.width,
        material=material,
        seed=request.seed,
    )
    if given.model is None:
        plans, notes = _keep_untrained(plans, notes, asked=bool(request.plans))
    settings = {
        "seed": request.seed,
        "model": given.digest,
        "student": f"{request.model_name} {request.width:g}",
        "data": material.digest,
        "validation_fraction": request.validation_fraction,
        "num_calibration": request.num_calibration,
        "calibration": request.calibration,
        "num_threads": request.num_threads,
        "budget": asdict(request.budget),
    }
    open_folder(request.output_dir, settings)
    rows = _make_rows(request, given, material, plans, notes, say)
    say(f"latency of {len(rows)} artefacts, 1 thread, one process")
    rows = measure_speed(
        rows, material, output_dir=request.output_dir, budget_seconds=request.latency_budget_seconds
    )
    front = Front(
        model=given.name,
        model_digest=given.digest,
        data=material.dataset.name,
        data_digest=material.digest,
        seed=request.seed,
        budget=asdict(request.budget),
        num_train=len(material.train),
        num_validation=len(material.validation),
        num_test=len(material.dataset.y_test),
        host=describe_host(),
        notes=notes,
        rows=find_front(rows),
    )
    write_front(request.output_dir, front)
    write_bytes_atomically(request.output_dir / PICTURE_FILE, draw_front(front))
    return front


def _keep_untrained(
    plans: list[CompressionPlan], notes: list[str], *, asked: bool
) -> tuple[list[CompressionPlan], list[str]]:
    kept = [plan for plan in plans if not plan.changes_training and plan.runtime == "onnx"]
    if len(kept) < len(plans):
        reason = (
            "an ONNX file holds no layers to train, for prune, sparsify, lowrank, qat and executorch;"
            " name a student that it teaches with --model"
        )
        if asked:
            raise UsageError(f"--plan: {reason}")
        notes = [*notes, f"left out: {reason}"]
    return kept, notes


@dataclass(frozen=True, eq=False)
class _Form:
    """A model that rows are exported from."""

    model: nn.Module | None
    graph: onnx.ModelProto
    train_seconds: float = 0.0


@dataclass(frozen=True)
class _Wanted:
    name: str
    kind: str
    plan: CompressionPlan
    form: CompressionPlan | None
    """What has to be trained for it; None is the model as given."""


def _list_wanted(request: Request, plans: Iterable[CompressionPlan], *, trains: bool) -> list[_Wanted]:
    floats = without_compression(CompressionPlan(num_calibration=request.num_calibration))
    wanted = [_Wanted("fp32 as given", "given", floats, None)]
    if trains:
        wanted.append(_Wanted("fp32 control", "control", floats, training_part(floats)))
    wanted += [
        _Wanted(name_plan(plan), "plan", plan, training_part(plan) if trains else None)
        for plan in plans
        if plan != floats
    ]
    return wanted


class _Workshop:
    """Trains each form once, when the first row that needs it is made; keeps one at a time."""

    def __init__(self, request: Request, given: Given, material: Material, say: Say) -> None:
        self._request, self._given, self._material, self._say = request, given, material, say
        self._held: tuple[CompressionPlan, _Form] | None = None
        self._teacher_logits: np.ndarray | None = None

    def get(self, form: CompressionPlan | None) -> _Form:
        """Returns a form, trained."""
        if form is None:
            return _Form(None if self._given.is_graph else self._given.model, self._given.graph)
        if self._held is None or self._held[0] != form:
            self._say(f"training {name_plan(form)}")
            self._held = (form, self._train(form))
        return self._held[1]

    def _train(self, form: CompressionPlan) -> _Form:
        request, material, model = self._request, self._material, self._given.model
        assert model is not None  # plans that train were refused for a graph
        if self._teacher_logits is None:
            self._teacher_logits = predict_all(self._given.predict, material.x_train)
        start = time.perf_counter()
        trained = train_plan(
            model,
            form,
            material,
            self._teacher_logits,
            request.budget,
            seed=request.seed,
            num_threads=request.num_threads,
        )
        seconds = time.perf_counter() - start
        if not np.isfinite(predict_logits(trained, material.x_train[:8])).all():
            raise FedStillError("training diverged; take a lower --learning-rate")
        return _Form(trained, export_graph(trained, material.spec), seconds)


def _make_rows(
    request: Request,
    given: Given,
    material: Material,
    plans: Iterable[CompressionPlan],
    notes: list[str],
    say: Say,
) -> list[Row]:
    wanted = _list_wanted(request, plans, trains=given.model is not None)
    workshop = _Workshop(request, given, material, say)
    rows: dict[str, Row] = {}
    # Plans of one training follow each other, since one trained model at a time is held.
    order = {form: index for index, form in enumerate(dict.fromkeys(item.form for item in wanted))}
    for item in sorted(wanted, key=lambda item: order[item.form]):
        folder = request.output_dir / slug(item.name)
        row = read_row(folder)
        if row is None:
            try:
                form = workshop.get(item.form)
                exported = export_plan(form.model, form.graph, item.plan, material)
            except FedStillError as error:
                # Of the plans that nobody asked for, those that do not fit the model are left out.
                if request.plans or item.kind != "plan" or isinstance(error, UsageError):
                    raise UsageError(f"{item.name}: {error}") from None
                notes.append(f"left out: {item.name}: {error}")
                say(notes[-1])
                continue
            row = measure_row(
                item.name,
                item.kind,
                exported,
                item.plan,
                model=form.model,
                graph=form.graph,
                given=given,
                material=material,
                folder=folder,
                train_seconds=form.train_seconds,
            )
            write_row(folder, row)
            say(f"{row.name}: validation {row.validation_accuracy:.4f}, {row.artefact_bytes:,} bytes")
        rows[item.name] = row
    return [rows[item.name] for item in wanted if item.name in rows]
