"""The report as a person opens it: from disk, in a real browser."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fleet_folder import FleetFolder, make_finished_run
from fedstill.common.config import load_config, to_toml
from fedstill.common.errors import DataError
from fedstill.server.report import write_report
from fedstill.server.report.pictures import find_front
from fedstill.server.run.events import ReplyDropped, UploadRefused, Warned
from fedstill.server.run.summary import FleetSummary, NodeSummary, RoundSummary, Summary, TeacherSummary

RunMaker = Callable[..., Path]


def make_nodes(num_nodes: int, *, scored: bool = True) -> list[NodeSummary]:
    rng = np.random.default_rng(0)

    def draw(mean: float, spread: float) -> float | None:
        return float(np.clip(rng.normal(mean, spread), 0, 1)) if scored else None

    return [
        NodeSummary(
            node_id=f"node-{index:04d}",
            family="mlp",
            num_train_samples=50 + index,
            num_private_test=14,
            accuracy=draw(0.951, 0.008),
            fp32_accuracy=draw(0.953, 0.008),
            private_accuracy=draw(0.93, 0.03),
            local_accuracy=draw(0.51, 0.1),
            local_private_accuracy=draw(0.95, 0.02),
            agreement_ratio=draw(0.96, 0.005),
            agreement_chance_ratio=0.1,
            ece=draw(0.02, 0.003),
            num_flipped=index % 7,
            worst_recall=draw(0.8, 0.02),
            worst_recall_change=-0.01 * (index % 3),
            num_parameters=2182,
            fp32_bytes=9200,
            artefact_bytes=9300 + index % 50,
            artefact_path=f"nodes/node-{index:04d}/artefact",
            artefact_digest=f"{index:064x}"[::-1],
            student_digest="b" * 64,
            latency_seconds_batch1=1.2e-5,
            teacher_latency_seconds_batch1=4e-4,
            bytes_down=15_000,
            bytes_up=0,
            public_sample_bytes=46_000,
            evaluation_bytes=23_000,
            artefact_upload_bytes=18_000,
            num_rounds=3,
            num_state_resets=0,
        )
        for index in range(num_nodes)
    ]


def make_summary(nodes: list[NodeSummary], *, num_rounds: int, teacher: bool) -> Summary:
    def mean(field: str) -> float | None:
        values = [getattr(node, field) for node in nodes if getattr(node, field) is not None]
        return float(np.mean(values)) if values else None

    scored = [node.accuracy for node in nodes if node.accuracy is not None]
    fleet = FleetSummary(
        accuracy_mean=mean("accuracy"),
        accuracy_p5=float(np.percentile(scored, 5)) if scored else None,
        accuracy_min=min(scored, default=None),
        private_accuracy_mean=mean("private_accuracy"),
        local_accuracy_mean=mean("local_accuracy"),
        local_private_accuracy_mean=mean("local_private_accuracy"),
        bytes_down=15_000 * len(nodes),
        bytes_up=0,
        public_sample_bytes=46_000 * len(nodes),
        wire_bytes_actual=61_000,
        fedavg_bytes=18_400 * num_rounds * len(nodes),
        artefact_bytes_mean=mean("artefact_bytes"),
    )
    rounds = [
        RoundSummary(
            round=index,
            accuracy_mean=fleet.accuracy_mean,
            num_sampled=len(nodes),
            num_replied=len(nodes),
            num_dropped=0,
            num_late=0,
            gap=0.02 if teacher else None,
            seconds=4.2,
        )
        for index in range(1, num_rounds + 1)
    ]
    held = TeacherSummary(
        model="cnn",
        accuracy=0.976,
        initial_accuracy=0.98,
        validation_accuracy=0.98,
        num_parameters=127_000,
        size_bytes=512_000,
        digest="d" * 64,
        num_server_samples=431,
        num_epochs=22,
    )
    return Summary(
        schema_version=1,
        run_id="digits-20260101",
        scheme="teacher" if teacher else "local",
        dataset="digits",
        seed=7,
        version="0.1.0",
        wall_seconds=34.2,
        num_resumes=0,
        stopped_because="all rounds done",
        eval_set={"digest": "c" * 64, "num_samples": 360},
        teacher=held if teacher else None,
        nodes=nodes,
        fleet=fleet,
        rounds=rounds,
    )


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    def make(
        num_nodes: int = 8,
        *,
        num_rounds: int = 3,
        teacher: bool = True,
        scored: bool = True,
        source: str = "digits",
    ) -> Path:
        nodes = make_nodes(num_nodes, scored=scored)
        summary = make_summary(nodes, num_rounds=num_rounds, teacher=teacher)
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        (run_dir / "summary.json").write_text(summary.model_dump_json(by_alias=True))
        (run_dir / "config.toml").write_text(to_toml(load_config(overrides=[f"data.source={source}"])))
        lines = []
        for number in range(1, num_rounds + 1):
            entries = [
                {"node_id": node.node_id, "accuracy": node.accuracy and node.accuracy - 0.1 / number, "x": 1}
                for node in nodes
            ]
            lines.append(json.dumps({"round": number, "nodes": entries, "label_set_id": "e" * 64}))
        (run_dir / "rounds.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return run_dir

    return make


@pytest.fixture
def open_report(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report; complaints of the page and its requests are kept on it."""
    pages = []

    def open_page(path: Path, **options: Any) -> Any:
        page = browser.new_page(**options)
        pages.append(page)
        page.complaints, page.requested = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()


def test_the_report_opens_from_disk_and_asks_for_nothing_else(make_run: RunMaker, open_report: Any) -> None:
    path = write_report(make_run())

    page = open_report(path)

    assert page.requested == [path.as_uri()]
    assert page.complaints == []


def test_key_figures_are_visible(make_run: RunMaker, open_report: Any) -> None:
    run_dir = make_run()
    fleet = json.loads((run_dir / "summary.json").read_text())["fleet"]

    page = open_report(write_report(run_dir))

    tiles = page.locator(".tiles").inner_text()
    for text in ("0.976", f"{fleet['accuracy_mean']:.3f}", f"{fleet['local_accuracy_mean']:.3f}", "9.30 kB"):
        assert text in tiles
    assert "55.0× as large" in tiles
    assert all(picture.is_visible() for picture in page.locator("figure svg").all())
    assert page.locator("figure svg").count() == 3
    assert page.get_by_text("fedstill simulate config.toml").is_visible()
    assert page.get_by_text("d" * 64).is_visible()


def test_every_node_has_its_row(make_run: RunMaker, open_report: Any) -> None:
    page = open_report(write_report(make_run(num_nodes=40)))

    names = page.locator(".nodes tbody tr td:first-child").all_inner_texts()

    assert names == [f"node-{index:04d}" for index in range(40)]


def test_numbers_are_aligned_under_their_heads(make_run: RunMaker, open_report: Any) -> None:
    page = open_report(write_report(make_run()))

    aligned = page.evaluate(
        """() => [...document.querySelectorAll('.nodes thead th')].map((head, index) => {
          const cell = document.querySelectorAll('.nodes tbody tr:first-child td')[index];
          return getComputedStyle(head).textAlign === getComputedStyle(cell).textAlign;
        })"""
    )

    assert aligned == [True] * 18


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_stand_out_from_the_page(make_run: RunMaker, open_report: Any, scheme: str) -> None:
    page = open_report(write_report(make_run()), color_scheme=scheme)

    paper, *inks = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
          ...[...document.querySelectorAll('figure svg text')].map(text => getComputedStyle(text).fill)]"""
    )

    assert (luminance(paper) < 0.1) == (scheme == "dark")
    assert min(contrast(paper, ink) for ink in inks) >= 4.5


def luminance(colour: str) -> float:
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_scrolls_tables_and_not_the_page(make_run: RunMaker, open_report: Any) -> None:
    page = open_report(write_report(make_run()), viewport={"width": 360, "height": 740})

    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_what_a_run_wrote_is_text_and_never_markup(make_run: RunMaker, open_report: Any) -> None:
    hostile = "<img src=x onerror=alert(1)>$title"

    page = open_report(write_report(make_run(source=hostile)))

    assert page.locator("img").count() == 0
    assert page.get_by_text(hostile).first.is_visible()


def test_the_same_run_gives_the_same_bytes(make_run: RunMaker) -> None:
    run_dir = make_run()

    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_a_run_without_teacher_has_a_report(make_run: RunMaker) -> None:
    page = write_report(make_run(teacher=False)).read_text(encoding="utf-8")

    assert "<dt>Teacher</dt>" not in page
    assert page.count("<figure>") == 3


def test_a_run_without_accuracies_has_a_report(make_run: RunMaker) -> None:
    page = write_report(make_run(scored=False, num_rounds=0)).read_text(encoding="utf-8")

    assert "No round was committed." in page


def test_a_fleet_of_ten_thousand_stays_below_two_megabytes(make_run: RunMaker) -> None:
    page = write_report(make_run(num_nodes=10_000, num_rounds=2)).read_bytes()

    assert page.count(b"<tr><td>node-") == 10_000
    assert len(page) < 2_000_000


def test_a_broken_round_is_named_by_its_line(make_run: RunMaker) -> None:
    run_dir = make_run()
    (run_dir / "rounds.jsonl").write_text('{"round": 1, "nodes": []}\n{"rou')

    with pytest.raises(DataError, match=r"rounds\.jsonl:2: expected one JSON object per round"):
        write_report(run_dir)


@pytest.mark.parametrize("missing", ["summary.json", "rounds.jsonl", "config.toml"])
def test_an_unfinished_run_is_named_and_nothing_written(make_run: RunMaker, missing: str) -> None:
    run_dir = make_run()
    (run_dir / missing).unlink()

    with pytest.raises(DataError, match=missing):
        write_report(run_dir)

    assert not (run_dir / "report.html").exists()


def test_how_to_have_it_again_is_exact(make_run: RunMaker, open_report: Any) -> None:
    run_dir = make_run()
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["versions"] = {"python": "3.11.7", "torch": "2.13.0+cpu", "ray": "2.55.1"}
    (run_dir / "summary.json").write_text(json.dumps(summary))

    page = open_report(write_report(run_dir))

    commands = page.locator("pre").all_inner_texts()
    assert commands[0] == (
        'pip install "fedstill[server]==0.1.0" torch==2.13.0 ray==2.55.1\n'
        "fedstill simulate config.toml --run-dir again"
    )
    assert page.get_by_text(hashlib.sha256((run_dir / "config.toml").read_bytes()).hexdigest()).is_visible()
    assert page.get_by_text("e" * 64).is_visible()


def test_the_check_prints_the_digest_that_stands_in_the_report(tmp_path: Path, open_report: Any) -> None:
    run_dir = make_finished_run(tmp_path / "again", num_nodes=5, num_rounds=3)

    page = open_report(write_report(run_dir))

    check = page.locator("pre").all_inner_texts()[1]
    printed = subprocess.run(
        check, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert page.get_by_text(printed.split()[0]).is_visible()


def test_devices_are_had_again_by_the_coordinator(make_run: RunMaker) -> None:
    run_dir = make_run()
    (run_dir / "config.toml").write_text(to_toml(load_config(overrides=["data.private=nodes"])))

    assert "fedstill coordinator config.toml --run-id again" in write_report(run_dir).read_text(
        encoding="utf-8"
    )


def test_what_went_wrong_is_counted_by_reason(tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "run", num_nodes=10, num_rounds=2, fail_ratio=0.0) as fleet:
        fleet.close_round()
        for node_id in ("node-0003", "node-0003", "node-0007"):
            fleet.observe(ReplyDropped(1, node_id, "late", "its round was closed"))
        fleet.observe(UploadRefused("node-0001", "non_finite", "NaN"))
        fleet.observe(Warned("the disk is <nearly> full"))
        fleet.finish()

    page = write_report(tmp_path / "run").read_text(encoding="utf-8")

    faults = page[page.index("<h2>What went wrong</h2>") : page.index("<h2>What was asked</h2>")]
    assert "<td>reply not used<td>late<td class=n>3<td class=n>2<td>node-0003, node-0007" in faults
    assert "<td>upload refused<td>non_finite<td class=n>1<td class=n>1<td>node-0001" in faults
    assert "the disk is &lt;nearly&gt; full" in faults


def test_bytes_of_a_round_are_those_of_its_nodes(tmp_path: Path) -> None:
    run_dir = make_finished_run(tmp_path / "run", num_nodes=4, num_rounds=1)

    page = write_report(run_dir).read_text(encoding="utf-8")

    assert "<td>24.4 kB<td>932 B<td>148 kB<td>4.20 s" in page


def test_a_thousand_nodes_and_their_faults_stay_below_two_megabytes(tmp_path: Path) -> None:
    with FleetFolder(tmp_path / "run", num_nodes=1000, num_rounds=4, fail_ratio=0.2) as fleet:
        for _ in range(4):
            fleet.close_round()
        fleet.finish()

    page = write_report(tmp_path / "run").read_bytes()

    assert page.count(b"<tr><td>node-") == 1000
    assert len(page) < 2_000_000


def test_the_front_is_what_no_other_beats() -> None:
    assert find_front([(3, 0.9), (1, 0.5), (2, 0.4), (1, 0.6), (4, 0.9)]) == [(1, 0.6), (3, 0.9)]
