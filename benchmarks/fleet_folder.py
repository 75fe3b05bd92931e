"""Run folders of any size, written by the project's own writers: what a run leaves, without training.

For what looks at run folders, as the dashboard, its tests and its benchmark. Figures are
drawn from a seed: accuracies rise to a ceiling of each node's own, and a few nodes fail.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from fedstill.common.config import Config, load_config, to_toml
from fedstill.common.files import write_text_atomically
from fedstill.server.federation.summarise import write_summary
from fedstill.server.figures.scoring import TeacherFacts
from fedstill.server.metrics import MetricsEndpoint, RunMetrics, watch_run_folder
from fedstill.server.run.events import (
    LabelsPublished,
    NodeClosed,
    NodeReported,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    ReplyDropped,
    RoundClosed,
    RunFinished,
    RunStarted,
    TeacherReady,
    broadcast,
)
from fedstill.server.run.logs import open_log
from fedstill.server.run.records import ClosingRecord, NodeRecord, PhaseSeconds, RoundRecord
from fedstill.server.run.state import STATE_FILE, FederationState, NodeState, commit_state, hold_folder

FAMILIES = ("cnn-tiny", "cnn-small", "mlp-small", "mlp-tiny")
SIZES = (9_000, 31_000, 7_400, 4_100)
CEILINGS = (0.962, 0.978, 0.951, 0.93)
TEACHER = TeacherFacts(
    model="cnn-medium",
    accuracy=0.981,
    initial_accuracy=0.981,
    validation_accuracy=0.98,
    num_parameters=320_714,
    size_bytes=1_282_864,
    digest="d" * 64,
    num_server_samples=366,
    num_epochs=22,
    latency_seconds_batch1=4e-4,
)


class FleetFolder:
    """A run folder that fills round by round, as a context manager that holds it as a run does.

    Args:
        run_dir: The folder; it may not exist yet.
        num_nodes: Nodes of the fleet.
        num_rounds: Rounds at most.
        seed: Of the figures.
        fail_ratio: Part of the nodes that a round loses.
        is_light: Rounds are appended to rounds.jsonl and left out of the checkpoint, so that one takes
            the same time however many there were; such a run cannot be finished.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        num_nodes: int,
        num_rounds: int,
        seed: int = 0,
        fail_ratio: float = 0.01,
        is_light: bool = False,
    ) -> None:
        self.run_dir = run_dir
        self.config: Config = load_config(
            overrides=[
                f"federation.num_nodes={num_nodes}",
                f"federation.num_rounds={num_rounds}",
                f"seed={seed}",
            ]
        )
        self.state = FederationState(run_id=run_dir.name)
        self._rng = np.random.default_rng(seed)
        self._fail_ratio = fail_ratio
        self._is_light = is_light
        self._node_ids = [f"node-{index:04d}" for index in range(num_nodes)]
        self._skill = self._rng.normal(0, 0.012, num_nodes)
        self._metrics = RunMetrics(max_node_series=10_000, run_id=run_dir.name)
        self._endpoint = MetricsEndpoint(self._metrics, host="127.0.0.1", port=0)
        self._stack = ExitStack()

    def __enter__(self) -> FleetFolder:
        """Begins the run: teacher, labels, and no round yet."""
        stack, run_dir = self._stack, self.run_dir
        stack.enter_context(hold_folder(run_dir))
        write_text_atomically(run_dir / "config.toml", to_toml(self.config))
        log = stack.enter_context(closing(open_log(run_dir)))
        self.observe = broadcast([self._metrics, log])
        watch_run_folder(self._metrics, run_dir)
        self._endpoint.start()
        stack.callback(self._endpoint.stop)
        write_text_atomically(run_dir / "metrics.address", f"{self._endpoint.address}\n")
        federation = self.config.federation
        self.observe(
            RunStarted(
                run_id=self.state.run_id,
                scheme=federation.scheme,
                dataset=self.config.data.source,
                num_nodes=federation.num_nodes,
                num_rounds=federation.num_rounds,
                run_dir=str(run_dir),
                codec=self.config.exchange.codec,
                temperature=self.config.distill.temperature,
                distill_lambda=self.config.distill.lambda_,
            )
        )
        teacher = TEACHER
        self.observe(
            TeacherReady(
                teacher.accuracy, teacher.validation_accuracy, teacher.num_parameters, teacher.size_bytes
            )
        )
        self.observe(LabelsPublished(0, 1.93))
        for index, node_id in enumerate(self._node_ids):
            self.state.nodes[node_id] = NodeState(
                node_id=node_id,
                family=FAMILIES[index % len(FAMILIES)],
                num_train_samples=40 + index % 90,
                num_private_test=12,
            )
        commit_state(self.state, run_dir)
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the folder; a run that was not finished looks like one that died."""
        self._endpoint.stop()
        (self.run_dir / "metrics.address").unlink(missing_ok=True)
        self._metrics.write(self.run_dir / "metrics.txt")
        self._stack.close()

    def start_round(self, num_answered: int = 0) -> None:
        """Begins the next round and lets some nodes answer."""
        number = self.state.round + 1
        self.observe(PhaseStarted("round", len(self._node_ids), number))
        self.observe(PhaseAdvanced("round", num_answered))

    def close_round(self) -> None:
        """Runs and commits the next round."""
        self.start_round(len(self._node_ids))
        number, reports = self.state.round + 1, []
        self.state.round = number
        failed = self._rng.random(len(self._node_ids)) < self._fail_ratio
        for index, node_id in enumerate(self._node_ids):
            if failed[index]:
                self.observe(ReplyDropped(number, node_id, "error", "connection reset by peer"))
                continue
            report = self._report(index, number)
            node = self.state.nodes[node_id]
            node.report, node.num_rounds, node.base_round = report, node.num_rounds + 1, number
            for name in ("bytes_down", "bytes_up", "public_sample_bytes", "wire_bytes"):
                setattr(node, name, getattr(node, name) + getattr(report, name))
            node.fedavg_bytes += 2 * report.fp32_bytes
            reports.append(report)
            self._announce(report, number)
        accuracy = float(np.mean([report.accuracy for report in reports]))
        assert TEACHER.validation_accuracy is not None
        gap = TEACHER.validation_accuracy - accuracy
        num_dropped = int(failed.sum())
        self.state.rounds.append(
            RoundRecord(
                round=number,
                accuracy_mean=accuracy,
                num_sampled=len(failed),
                num_replied=len(reports),
                num_dropped=num_dropped,
                label_set_id="e" * 64,
                gap=gap,
                seconds=4.2,
                nodes=reports,
            )
        )
        self.state.wall_seconds += 4.2
        self._commit()
        self.observe(RoundClosed(number, accuracy, len(failed), len(reports), num_dropped, 4.2, gap))
        self.observe(PhaseEnded("round", 4.2, number))

    def _commit(self) -> None:
        if not self._is_light:
            commit_state(self.state, self.run_dir)
            return
        write_text_atomically(
            self.run_dir / STATE_FILE, self.state.model_dump_json(indent=1, exclude={"rounds"})
        )
        with (self.run_dir / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.state.rounds.pop().to_line(), sort_keys=True) + "\n")

    def _report(self, index: int, number: int) -> NodeRecord:
        kind = index % len(FAMILIES)
        ceiling = CEILINGS[kind] + self._skill[index] - 0.28 * np.exp(-0.7 * number)
        accuracy, fp32, private = np.clip(ceiling + self._rng.normal(0, [0.004, 0.004, 0.03]), 0, 1).tolist()
        size = SIZES[kind] + index % 97
        return NodeRecord(
            node_id=self._node_ids[index],
            family=FAMILIES[kind],
            accuracy=accuracy,
            fp32_accuracy=fp32,
            validation_accuracy=accuracy,
            private_accuracy=private,
            private_validation_accuracy=private,
            agreement_ratio=min(1.0, accuracy + 0.01),
            agreement_chance_ratio=0.1,
            ece=0.02,
            num_flipped=int(self._rng.integers(0, 9)),
            worst_recall=accuracy - 0.1,
            worst_recall_change=-0.01,
            distillation_loss=float(0.4 * np.exp(-0.5 * number)),
            private_loss=float(0.9 * np.exp(-0.2 * number)),
            num_parameters=size // 4,
            fp32_bytes=int(size * 3.4),
            artefact_bytes=size,
            student_digest=f"{index:064x}",
            artefact_digest=f"{index + 1:064x}",
            num_steps=180,
            state_reset=False,
            wire_bytes=12 if number > 1 else 6_000,
            phase_seconds=PhaseSeconds(fetch=0.03, train=0.6, export=0.2, evaluate=0.05),
            bytes_down=6_100 if number == 1 else 220,
            bytes_up=233,
            public_sample_bytes=36_900 if number == 1 else 0,
            evaluation_bytes=2_400,
        )

    def _announce(self, report: NodeRecord, number: int) -> None:
        names = {
            "node_id", "family", "accuracy", "fp32_accuracy", "private_accuracy", "agreement_ratio",
            "num_parameters", "fp32_bytes", "artefact_bytes", "bytes_down", "bytes_up",
            "public_sample_bytes", "wire_bytes", "phase_seconds", "distillation_loss", "private_loss",
        }  # fmt: skip
        self.observe(NodeReported(round=number, **report.model_dump(include=names)))

    def finish(self) -> None:
        """Measures controls and latencies, and sums the run up."""
        for index, node in enumerate(self.state.nodes.values()):
            local = float(np.clip(0.62 + 4 * self._skill[index], 0, 1))
            latency = SIZES[index % len(SIZES)] * 1.3e-9
            node.closing = ClosingRecord(
                local_accuracy=local, local_private_accuracy=0.9, latency_seconds_batch1=latency
            )
            self.observe(NodeClosed(node.node_id, local, 0.9, latency))
        self.state.is_closed, self.state.stopped_because = True, "the last round is over"
        commit_state(self.state, self.run_dir)
        write_summary(
            self.run_dir,
            self.config,
            self.state,
            dataset="digits",
            evaluation_digest="c" * 64,
            num_evaluation_samples=360,
            teacher=TEACHER,
            quality={},
        )
        self.observe(RunFinished(str(self.run_dir), str(self.run_dir / "report.html")))


def make_finished_run(run_dir: Path, *, num_nodes: int, num_rounds: int, seed: int = 0) -> Path:
    """Writes a whole run.

    Args:
        run_dir: The folder that it fills.
        num_nodes: Nodes of the fleet.
        num_rounds: Its rounds.
        seed: Of the figures.

    Returns:
        The folder.
    """
    with FleetFolder(run_dir, num_nodes=num_nodes, num_rounds=num_rounds, seed=seed) as fleet:
        for _ in range(num_rounds):
            fleet.close_round()
        fleet.finish()
    return run_dir
