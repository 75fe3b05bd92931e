"""What a run that ended early leaves: nothing that blocks its command, all that is worth going on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstill.common.config import Config, load_config
from fedstill.common.errors import ArtefactError, ConfigError, RunError, UsageError
from fedstill.server.run.folder import open_run
from fedstill.server.run.records import RoundRecord
from fedstill.server.run.state import STATE_FILE, commit_state


def _end(folder: Path, error: BaseException, **committed: int) -> None:
    with pytest.raises(type(error)):
        _run(folder, error, **committed)


def _run(folder: Path, error: BaseException, *, num_epochs: int | None = None, num_rounds: int = 0) -> None:
    """Begins a run, commits what is asked for, and ends it by an error."""
    with open_run(Config(), run_dir=folder, resume=False, run_id="mine") as (_, state):
        state.exchange.teacher_epochs = num_epochs
        state.round = num_rounds
        state.rounds += [RoundRecord(round=number, num_sampled=1) for number in range(1, num_rounds + 1)]
        commit_state(state, folder)
        raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(15), ConfigError("x"), ArtefactError("x"), UsageError("x")]
)
def test_an_early_end_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    _end(tmp_path / "run", error)

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(15), RunError("x")])
def test_a_trained_teacher_is_kept_and_the_same_command_goes_on_from_it(
    error: BaseException, tmp_path: Path
) -> None:
    _end(tmp_path / "run", error, num_epochs=3)

    with open_run(Config(), run_dir=tmp_path / "run", resume=False, run_id="other") as (_, state):
        assert state.exchange.teacher_epochs == 3
        assert (state.run_id, state.num_resumes) == ("mine", 1)


def test_a_run_of_another_configuration_is_no_place_to_begin(tmp_path: Path) -> None:
    _end(tmp_path / "run", KeyboardInterrupt(), num_epochs=3)
    other = load_config(overrides=["seed=1"])

    with (
        pytest.raises(UsageError, match=f"--resume {tmp_path / 'run'}"),
        open_run(other, run_dir=tmp_path / "run", resume=False),
    ):
        pass

    assert (tmp_path / "run" / STATE_FILE).exists()


def test_committed_rounds_are_never_begun_over(tmp_path: Path) -> None:
    _end(tmp_path / "run", KeyboardInterrupt(), num_rounds=1)

    with (
        pytest.raises(UsageError, match=f"--resume {tmp_path / 'run'}"),
        open_run(Config(), run_dir=tmp_path / "run", resume=False),
    ):
        pass
    with open_run(Config(), run_dir=tmp_path / "run", resume=True) as (_, state):
        assert state.round == 1
