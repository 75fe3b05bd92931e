"""Rounds in which nothing is evaluated: students learn on, and in the end each has its artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedstill.common.config import Config, load_config
from fedstill.server.run.summary import Summary
from fedstill.server.simulate import simulate

QUICK = (
    "teacher.model=mlp-small",
    "teacher.num_epochs=4",
    "student.model=mlp-small",
    "teacher.num_threads=1",
    "distill.num_epochs=1",
    "data.num_public=200",
    "federation.num_nodes=4",
    "federation.num_rounds=5",
    "federation.sample_fraction=0.5",
    "federation.control_fraction=0.0",
    "monitoring.enabled=false",
)


def make_config(scheme: str, *changes: str) -> Config:
    return load_config(overrides=[*QUICK, f"federation.scheme={scheme}", *changes])


def run(scheme: str, run_dir: Path, *changes: str, **options: Any) -> Summary:
    return simulate(make_config(scheme, *changes), run_dir=run_dir, grid_name="local", **options)


def rounds(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("scheme", ["ensemble", "weights"])
def test_students_are_those_of_a_run_that_evaluates_in_every_round(scheme: str, tmp_path: Path) -> None:
    run(scheme, tmp_path / "each")
    summary = run(scheme, tmp_path / "some", "federation.evaluate_every=2")
    each, some = rounds(tmp_path / "each"), rounds(tmp_path / "some")
    last = len(each)
    assert len(some) == last
    for one, other in zip(each, some, strict=True):
        is_evaluated = other["round"] % 2 == 0 or other["round"] == last
        assert (other["accuracy_mean"] is not None) == is_evaluated
        assert is_evaluated or other["gap"] is None
        for mine, theirs in zip(one["nodes"], other["nodes"], strict=True):
            assert mine["student_digest"] == theirs["student_digest"]
            assert mine["num_steps"] == theirs["num_steps"]
            wanted = ("accuracy", "artefact_digest") if is_evaluated else ()
            assert [mine[name] for name in wanted] == [theirs[name] for name in wanted]
            if not is_evaluated:
                assert (theirs["accuracy"], theirs["ece"], theirs["artefact_bytes"]) == (None, None, 0)
    # Some nodes were in the last round that was not evaluated, and in none after it.
    left = {node["node_id"] for node in some[-2]["nodes"]} - {node["node_id"] for node in some[-1]["nodes"]}
    assert left or last % 2 == 0
    for node in summary.nodes:
        assert node.accuracy is not None
        assert node.artefact_path is not None
        assert (tmp_path / "some" / node.artefact_path / "manifest.json").exists()
        assert (tmp_path / "some" / "nodes" / node.node_id / "predictions.npy").exists()


class PulledPlugError(Exception):
    """The coordinator ends here."""


def test_a_run_that_ends_in_a_round_between_resumes_to_the_identical_ending(tmp_path: Path) -> None:
    def pull_the_plug(event: object) -> None:
        if type(event).__name__ == "RoundClosed" and event.round == 1:  # type: ignore[attr-defined]
            raise PulledPlugError

    changes = ("federation.evaluate_every=100", "federation.num_rounds=3")
    whole = run("teacher", tmp_path / "whole", *changes)
    with pytest.raises(PulledPlugError):
        run("teacher", tmp_path / "cut", *changes, observers=[pull_the_plug])
    resumed = run("teacher", tmp_path / "cut", *changes, resume=True)
    assert [line["accuracy_mean"] is None for line in rounds(tmp_path / "cut")] == [True, True, False]
    for one, other in zip(whole.nodes, resumed.nodes, strict=True):
        assert (one.student_digest, one.artefact_digest, one.accuracy) == (
            other.student_digest,
            other.artefact_digest,
            other.accuracy,
        )


def test_what_compression_cost_is_known_across_rounds_without_artefacts(tmp_path: Path) -> None:
    changes = (
        "student.model=cnn-tiny",
        "compress.steps=prune,quantise",
        "federation.evaluate_every=3",
        "federation.num_rounds=3",
    )
    summary = run("teacher", tmp_path / "run", *changes, "federation.sample_fraction=1.0")
    manifest = json.loads(
        (tmp_path / "run" / str(summary.nodes[0].artefact_path) / "manifest.json").read_text()
    )
    assert {step["step"] for step in manifest["compression"]["steps"]} == {"prune", "quantise"}
