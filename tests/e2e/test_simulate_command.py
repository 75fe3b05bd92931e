"""`fedstill simulate`: mistakes end in one clear line, and a run folder is named after its run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedstill.server.run.state import STATE_FILE

PROGRAM = "from fedstill.server.cli import main; main()"


def heed_interrupts() -> None:
    # A suite that runs in the background inherits SIGINT ignored, and so would the child.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(arguments: list[str], *, stdout: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def run_cli(
    command: list[str], quick: list[str], overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    from fedstill.server.cli import run

    arguments = [*command, *quick, *(part for item in overrides for part in ("--set", item))]
    before = sys.argv
    sys.argv = ["fedstill", *arguments]
    try:
        code = run()
    finally:
        sys.argv = before
    lines = capsys.readouterr().err.splitlines()
    return code, "\n".join(line for line in lines if line.startswith("fedstill:"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source=nowhere"], "nowhere"),
        (["federation.scheme=teachr"], "did you mean 'teacher'"),
        (["distill.loss=lk"], "did you mean 'kl'"),
        (["exchange.codec=lp9"], "did you mean 'lp8'"),
        (["federation.partitioner=dirichle"], "dirichlet"),
        (["student.model=cnn-tinny"], "did you mean 'cnn-tiny'"),
        (["federation.num_nodes=5000"], "node"),
        (["teacher.checkpoint=missing.safetensors"], "missing.safetensors"),
    ],
)
def test_mistakes_end_before_the_first_round_with_one_clear_line(
    overrides: list[str],
    message: str,
    quick_overrides: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["simulate", "--grid", "local", "--run-dir", str(tmp_path / "run")]
    code, error = run_cli(command, quick_overrides, overrides, capsys)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error


def test_taken_port_is_named_with_the_remedy(
    quick_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = run_cli(
            ["simulate", "--grid", "local", "--run-dir", str(tmp_path / "run")],
            quick_overrides,
            [f"exchange.port={port}"],
            capsys,
        )
    assert code == 2
    assert str(port) in error
    assert "exchange.port" in error


def test_default_folder_is_named_after_the_run(
    tmp_path: Path,
    quick_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["federation.num_rounds=1", "federation.control_fraction=0.0"]
    code, _ = run_cli(["simulate", "--grid", "local"], quick_overrides, more, capsys)
    assert code == 0
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "summary.json").read_text())["run_id"] == run_dir.name


def test_mistake_leaves_no_run_folder_behind(
    tmp_path: Path, quick_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli(
        ["simulate", "--grid", "local", "--run-dir", str(tmp_path / "run")],
        quick_overrides,
        ["data.source=nowhere"],
        capsys,
    )
    assert not (tmp_path / "run").exists()


def test_results_are_printed_before_the_wait_for_prometheus(
    tmp_path: Path, quick_overrides: list[str]
) -> None:
    more = ["federation.num_rounds=1", "federation.control_fraction=0.0"]
    more += [f"monitoring.targets_dir={tmp_path / 'targets'}"]
    arguments = ["simulate", "--grid", "local", "--run-dir", str(tmp_path / "run"), *quick_overrides]
    arguments += [part for item in more for part in ("--set", item)]
    process = start(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert any(line.startswith("report      ") for line in process.stdout)
    assert any(line.startswith("waiting 30.0 s at most until Prometheus") for line in process.stderr)
    assert len(list((tmp_path / "targets").iterdir())) == 1
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=25)

    assert (process.returncode, *rest) == (0, "", "")
    assert list((tmp_path / "targets").iterdir()) == []


def test_a_bad_resume_is_refused_before_torch_and_ray_are_loaded(tmp_path: Path) -> None:
    program = "import sys; from fedstill.server.cli import run; code = run(); print(code, *sys.modules)"
    arguments = ["simulate", "--resume", str(tmp_path / "nothing")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    code, *modules = done.stdout.split()

    assert code == "2"
    assert "nothing to resume" in done.stderr
    assert not {"torch", "ray", "flwr"} & set(modules)


@pytest.mark.parametrize(("number", "line"), [(signal.SIGTERM, "round 1: accuracy"), (signal.SIGINT, "run ")])
def test_an_interrupted_run_says_how_to_go_on_or_leaves_nothing(
    number: signal.Signals, line: str, tmp_path: Path, quick_overrides: list[str]
) -> None:
    arguments = ["simulate", "--grid", "local", "--run-dir", str(tmp_path / "run"), *quick_overrides]
    process = start(arguments, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    assert any(told.startswith(line) for told in process.stderr)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in rest
    has_rounds = line != "run "
    assert (f"fedstill simulate --resume {tmp_path / 'run'}" in rest) == has_rounds
    assert (tmp_path / "run" / STATE_FILE).exists() == has_rounds
    assert (tmp_path / "run").exists() == has_rounds
