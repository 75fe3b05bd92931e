"""What is said of finished runs: means, winners, ties, and what makes a comparison unsound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedstill.server.compare import make_plan
from fedstill.server.compare.collect import collect
from fedstill.server.compare.columns import COLUMNS
from fedstill.server.compare.folder import run_folder
from fedstill.server.compare.records import COMPARISON_FILE, Comparison, Verdict, read_comparison
from fedstill.server.run.summary import NodeSummary, Summary

Write = Callable[..., Comparison]


def find_verdict(comparison: Comparison, column: str) -> Verdict:
    (found,) = [verdict for verdict in comparison.verdicts if verdict.column == column]
    return found


def test_cells_hold_mean_and_sample_deviation_over_seeds(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.2, 1: 0.4, 2: 0.6}, "teacher": {0: 0.9, 1: 0.9, 2: 0.9}})

    spread = comparison.cells[0].figures["accuracy"]
    assert (spread.mean, spread.deviation, spread.num_seeds) == (
        pytest.approx(0.4),
        pytest.approx(0.2),
        3,
    )


def test_a_difference_that_the_spread_cannot_explain_has_a_winner(write_comparison: Write) -> None:
    comparison = write_comparison(
        {"local": {0: 0.50, 1: 0.52, 2: 0.54}, "teacher": {0: 0.9, 1: 0.91, 2: 0.93}}
    )

    verdict = find_verdict(comparison, "accuracy")
    assert (verdict.best, verdict.tied) == ("teacher", [])


def test_a_difference_within_the_spread_is_a_tie(write_comparison: Write) -> None:
    # Differences .3, −.1, .2: mean .133, half width 4.3027 · .2082 / √3 = .517.
    comparison = write_comparison({"local": {0: 0.5, 1: 0.8, 2: 0.6}, "teacher": {0: 0.8, 1: 0.7, 2: 0.8}})

    verdict = find_verdict(comparison, "accuracy")
    assert (verdict.best, verdict.leader, verdict.tied) == (None, "teacher", ["teacher", "local"])
    assert verdict.margins[0].low == pytest.approx(0.1333 - 0.5171, abs=1e-3)


def test_figures_of_nodes_are_averaged_over_the_nodes_that_have_them() -> None:
    first = NodeSummary.model_construct(validation_accuracy=0.8, agreement_ratio=0.7)
    second = NodeSummary.model_construct(validation_accuracy=None, agreement_ratio=0.9)
    both, only = (Summary.model_construct(nodes=nodes) for nodes in ([first, second], [second]))

    assert COLUMNS["validation_accuracy"].read(both) == pytest.approx(0.8)
    assert COLUMNS["teacher_agreement"].read(both) == pytest.approx(0.8)
    assert COLUMNS["validation_accuracy"].read(only) is None


def test_equal_figures_are_a_tie(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.5, 1: 0.8}, "teacher": {0: 0.5, 1: 0.8}})

    assert find_verdict(comparison, "label_bytes").tied == ["local", "teacher"]


def test_one_seed_has_no_winner_and_says_why(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.1}, "teacher": {0: 0.9}})

    verdict = find_verdict(comparison, "accuracy")
    assert (verdict.best, verdict.tied) == (None, [])
    assert "fewer than two finished seeds" in verdict.reason
    assert "One seed has no spread" in comparison.notes[0]


def test_a_failed_run_is_in_no_mean_and_says_so(write_comparison: Write) -> None:
    comparison = write_comparison(
        {"local": {0: 0.4, 1: 0.6, 2: 0.1}, "teacher": {0: 0.9, 1: 0.8, 2: 0.9}},
        failures={"local_seed=2": "no space left"},
    )

    cell = comparison.cells[0]
    assert (cell.num_finished, cell.num_failed) == (2, 1)
    assert cell.figures["accuracy"].mean == pytest.approx(0.5)
    assert comparison.notes == ["local, seed 2, failed and is in no mean: no space left"]
    assert not comparison.is_sound


def test_a_run_that_did_not_use_some_answers_says_so(write_comparison: Write) -> None:
    comparison = write_comparison(
        {"teacher": {0: 0.9, 1: 0.8}}, schemes="teacher", num_dropped={"teacher_seed=1": 2}
    )

    assert comparison.notes == [
        "teacher, seed 1: 2 of 6 answers were not used; runs/teacher_seed=1/log.jsonl says why."
    ]
    assert comparison.is_sound


def test_winners_are_judged_over_common_seeds(write_comparison: Write) -> None:
    comparison = write_comparison(
        {"local": {0: 0.4, 1: 0.41}, "teacher": {0: 0.9, 1: 0.91, 2: 0.3}},
        failures={"local_seed=2": "x"},
    )

    verdict = find_verdict(comparison, "accuracy")
    assert (verdict.best, verdict.margins[0].num_seeds) == ("teacher", 2)


def test_a_scheme_without_finished_runs_is_left_out_of_verdicts(write_comparison: Write) -> None:
    comparison = write_comparison({"teacher": {0: 0.9, 1: 0.91}})

    assert comparison.verdicts == []
    assert comparison.cells[0].figures == {}
    assert "2 of 4 runs are not finished" in comparison.notes[0]


def test_swept_values_that_change_the_partitions_are_not_compared(write_comparison: Write) -> None:
    comparison = write_comparison(
        {
            f"{scheme} federation.alpha={alpha}": {0: base + alpha / 100, 1: base + alpha / 100 + 0.01}
            for scheme, base in (("local", 0.2), ("teacher", 0.8))
            for alpha in (1, 5)
        },
        sweeps=("federation.alpha=1,5",),
    )

    found = [verdict for verdict in comparison.verdicts if verdict.column == "accuracy"]
    assert [verdict.best for verdict in found] == [
        "teacher federation.alpha=1",
        "teacher federation.alpha=5",
    ]


def test_swept_values_that_leave_the_partitions_alone_compete(write_comparison: Write) -> None:
    comparison = write_comparison(
        {f"local distill.temperature={value}": {0: value / 10, 1: value / 10 + 0.01} for value in (1, 4)},
        sweeps=("distill.temperature=1,4",),
        schemes="local",
    )

    assert find_verdict(comparison, "accuracy").best == "local distill.temperature=4"


def test_other_partitions_under_one_seed_are_flagged_and_nothing_is_marked(
    write_comparison: Write, tmp_path: Path
) -> None:
    accuracies = {"local": {0: 0.4, 1: 0.41}, "teacher": {0: 0.9, 1: 0.91}}
    assert write_comparison(accuracies).verdicts
    path = run_folder(tmp_path, "teacher_seed=1") / "summary.json"
    summary = json.loads(path.read_text())
    summary["nodes"][1]["num_train_samples"] = 49
    path.write_text(json.dumps(summary))

    plan = make_plan(None, schemes="local,teacher", seeds="0,1")
    comparison = collect(plan, tmp_path, failures={}, grid_name="local", jobs=1)

    assert comparison.verdicts == []
    assert "node-0001: 50 and 49 samples to train" in comparison.notes[0]
    assert not comparison.is_sound


def test_comparison_is_read_back_as_it_was_written(write_comparison: Write, tmp_path: Path) -> None:
    comparison = write_comparison({"local": {0: 0.1}, "teacher": {0: 0.9}}, sweeps=("compress.bits=8,32",))
    (tmp_path / COMPARISON_FILE).write_text(comparison.model_dump_json(by_alias=True))

    assert read_comparison(tmp_path) == comparison


def test_run_folders_are_relative(write_comparison: Write) -> None:
    comparison = write_comparison({"local": {0: 0.1}})

    assert comparison.runs[0].run_dir == "runs/local_seed=0"
