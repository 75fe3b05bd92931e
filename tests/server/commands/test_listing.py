"""`fedstill list`: what can be named, from where, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstill.common.errors import ConfigError
from fedstill.server.commands.listing import KINDS, list_known


def test_every_built_in_has_a_line():
    lines = list(list_known("losses"))
    assert [line.split(maxsplit=1) for line in lines] == [[name, "built in"] for name in KINDS["losses"]]


def test_all_kinds_are_listed_with_their_kind():
    lines = list(list_known(None))
    assert {line.split()[0] for line in lines} == set(KINDS)
    assert len(lines) == sum(map(len, KINDS.values()))


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown kind 'lossse'; did you mean 'losses'"):
        list(list_known("lossse"))


def test_plug_ins_are_listed_with_their_distribution_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info = tmp_path / "softer-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: softer\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(
        "[fedstill.losses]\nsofter = no_such_module:loss\nkl = no_such:kl\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lines = [" ".join(line.split()) for line in list_known("losses")]
    assert lines[-2:] == [
        "kl no_such:kl, of softer 0.3; refused, the name is built in",
        "softer no_such_module:loss, of softer 0.3",
    ]
