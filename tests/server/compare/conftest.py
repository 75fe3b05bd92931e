"""Comparisons whose runs are written by hand: real configurations, summaries with chosen figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fedstill.common.config import to_toml
from fedstill.server.compare import PlannedRun, make_plan
from fedstill.server.compare.collect import collect
from fedstill.server.compare.folder import run_folder
from fedstill.server.compare.records import Comparison
from fedstill.server.run.summary import FleetSummary, NodeSummary, RoundSummary, Summary

Accuracies = Mapping[str, Mapping[int, float]]


def write_run(
    output_dir: Path,
    run: PlannedRun,
    accuracy: float,
    *,
    num_train: int = 50,
    label_bytes: int = 10_000,
    num_dropped: int = 0,
) -> None:
    """Writes the folder of a finished run of two nodes and three rounds."""
    nodes = [make_node(f"node-{index:04d}", accuracy, num_train=num_train) for index in range(2)]
    fleet = FleetSummary(
        accuracy_mean=accuracy,
        accuracy_p5=accuracy - 0.02,
        accuracy_min=accuracy - 0.03,
        private_accuracy_mean=min(1.0, accuracy + 0.05),
        local_accuracy_mean=0.5,
        local_private_accuracy_mean=0.9,
        bytes_down=label_bytes - 1000,
        bytes_up=1000,
        public_sample_bytes=40_000,
        wire_bytes_actual=30_000,
        fedavg_bytes=400_000,
        artefact_bytes_mean=9000.0,
    )
    rounds = [
        RoundSummary(
            round=number,
            accuracy_mean=accuracy - 0.1 / number + 0.1 / 3,
            num_sampled=2,
            num_replied=2,
            num_dropped=num_dropped if number == 2 else 0,
            num_late=0,
            gap=None,
            seconds=1.0,
        )
        for number in (1, 2, 3)
    ]
    summary = Summary(
        run_id=run.slug,
        scheme=run.scheme,
        dataset="digits",
        seed=run.seed,
        version="0.1.0",
        wall_seconds=12.0,
        num_resumes=0,
        stopped_because="all rounds done",
        eval_set={"digest": "c" * 64, "num_samples": 360},
        teacher=None,
        nodes=nodes,
        fleet=fleet,
        rounds=rounds,
        schema_version=1,
    )
    folder = run_folder(output_dir, run.slug)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(run.config))
    (folder / "summary.json").write_text(summary.model_dump_json(by_alias=True))


def make_node(node_id: str, accuracy: float, *, num_train: int) -> NodeSummary:
    values = dict.fromkeys(NodeSummary.model_fields, 0) | {
        "node_id": node_id,
        "family": "mlp",
        "accuracy": accuracy,
        "num_train_samples": num_train,
        "artefact_path": None,
        "device": None,
        "choices": [],
        "quality": None,
        "artefact_digest": "a" * 64,
        "student_digest": "b" * 64,
    }
    return NodeSummary.model_validate(
        {name: values[name] for name in NodeSummary.model_fields if name in values}
    )


@pytest.fixture
def write_comparison(tmp_path: Path) -> Callable[..., Comparison]:
    """Writes runs with the given accuracies, by cell and seed, and collects them; the rest is left out."""

    def write(
        accuracies: Accuracies,
        *,
        sweeps: tuple[str, ...] = (),
        schemes: str = "local,teacher",
        failures: Mapping[str, str] | None = None,
        num_dropped: Mapping[str, int] | None = None,
    ) -> Comparison:
        seeds = sorted({seed for by_seed in accuracies.values() for seed in by_seed})
        plan = make_plan(None, schemes=schemes, seeds=",".join(map(str, seeds)), sweeps=sweeps)
        for run in plan.runs:
            if run.seed in accuracies.get(run.cell, {}):
                lost = (num_dropped or {}).get(run.slug, 0)
                write_run(tmp_path, run, accuracies[run.cell][run.seed], num_dropped=lost)
        return collect(plan, tmp_path, failures=failures or {}, grid_name="local", jobs=2)

    return write
