"""How a simulation's configuration and the user's files reach other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedstill.common.config import Config, load_config
from fedstill.common.errors import ConfigError
from fedstill.common.losses import LOSSES
from fedstill.common.modules import VARIABLE, looking_in
from fedstill.server.simulate import _make_portable, _shipment


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    (tmp_path / "ship_loss.py").write_text("import ship_part\ndef loss():\n    pass\n")
    (tmp_path / "ship_part.py").write_text("")
    (tmp_path / "secret.txt").write_text("not of anybody's concern")
    monkeypatch.chdir(tmp_path)
    return load_config(overrides=["distill.loss=ship_loss:loss"])


def test_a_cluster_is_sent_the_modules_and_nothing_else(own: Config) -> None:
    with looking_in(), _shipment(own, "somewhere:6379") as (environment, folder):
        assert environment == {VARIABLE: os.curdir}
        assert folder is not None
        assert sorted(path.name for path in folder.iterdir()) == ["ship_loss.py", "ship_part.py"]
    assert not folder.exists()


def test_actors_on_this_machine_find_the_modules_where_they_are(own: Config, tmp_path: Path) -> None:
    with looking_in(), _shipment(own, None) as (environment, folder):
        assert (environment[VARIABLE], folder) == (str(tmp_path), None)


def a_loss(student, teacher, /, *, temperature):
    return (student - teacher).square().mean()


@pytest.fixture
def registered() -> Iterator[None]:
    yield
    LOSSES._registered.clear()


@pytest.mark.usefixtures("registered")
def test_what_was_registered_here_is_named_as_other_processes_find_it() -> None:
    LOSSES.register("portable-loss")(a_loss)
    LOSSES.register("local-loss")(lambda student, teacher, /, *, temperature: student.sum())
    config = load_config(overrides=["distill.loss=portable-loss", "student.model=cnn-tiny,mlp-small"])
    portable = _make_portable(config)
    assert portable.distill.loss.endswith("test_simulate:a_loss")
    assert portable.student.model == "cnn-tiny,mlp-small"
    with pytest.raises(ConfigError, match="registered in this process only"):
        _make_portable(load_config(overrides=["distill.loss=local-loss"]))
