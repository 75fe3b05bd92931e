"""The cross product, its names, and every mistake found before the first run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstill.common.errors import ConfigError, UsageError
from fedstill.server.compare import make_plan
from fedstill.server.compare.plan import MAX_SLUG_LETTERS, check_plan
from fedstill.server.schemes import SCHEMES


def test_every_scheme_meets_every_seed_and_every_value() -> None:
    plan = make_plan(None, schemes="local,teacher", seeds="0,7", sweeps=["distill.temperature=1,4"])

    assert [run.slug for run in plan.runs] == [
        f"{scheme}_distill.temperature={value}_seed={seed}"
        for seed in (0, 7)
        for scheme in ("local", "teacher")
        for value in (1, 4)
    ]


def test_a_run_has_its_scheme_seed_and_swept_values() -> None:
    plan = make_plan(
        None,
        schemes="local",
        seeds="3",
        sweeps=["distill.temperature=2", "federation.num_rounds=9"],
        overrides=["federation.num_nodes=5"],
    )

    config = plan.runs[0].config
    assert (config.seed, config.federation.scheme, config.federation.num_nodes) == (3, "local", 5)
    assert (config.distill.temperature, config.federation.num_rounds) == (2.0, 9)


def test_cells_leave_the_seed_out() -> None:
    plan = make_plan(None, schemes="local", seeds="0,1", sweeps=["compress.bits=8,32"])

    assert {run.cell for run in plan.runs} == {"local compress.bits=8", "local compress.bits=32"}


def test_folder_names_are_plain_short_and_distinct(tmp_path: Path) -> None:
    long = [tmp_path / f"{'x' * 90}{index}.npz" for index in range(2)]
    plan = make_plan(None, schemes="local", seeds="0", sweeps=[f"data.source={long[0]},{long[1]}"])

    slugs = [run.slug for run in plan.runs]
    assert len(set(slugs)) == 2
    assert all("/" not in slug and len(slug) <= MAX_SLUG_LETTERS + 9 for slug in slugs)


def test_command_is_the_one_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("seed = 5")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(
        Path("mine.toml"),
        schemes="local, teacher",
        seeds="0,1",
        sweeps=["distill.temperature=1,4"],
        overrides=["data.source=my digits"],
    )

    assert plan.command == (
        "fedstill compare mine.toml --schemes local,teacher --seeds 0,1"
        " --sweep distill.temperature=1,4 --set 'data.source=my digits'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schemes": "local,teachr"}, "did you mean 'teacher'"),
        ({"schemes": "local,,teacher"}, "--schemes: expected values"),
        ({"schemes": ""}, "--schemes: expected values"),
        ({"schemes": "local,local"}, "--schemes names local twice"),
        ({"seeds": "0,1,0"}, "--seeds names 0 twice"),
        ({"seeds": "one"}, "whole numbers"),
        ({"seeds": "-1"}, "whole numbers"),
        ({"seeds": ""}, "--seeds: expected values"),
        ({"seeds": "9999999999999999999"}, "seed"),
        ({"sweeps": ["distill.temprature=1,2"]}, "did you mean distill.temperature"),
        ({"sweeps": ["distill.temperature"]}, "--sweep takes key=value"),
        ({"sweeps": ["distill.temperature="]}, "--sweep distill.temperature: expected values"),
        ({"sweeps": ["distill.temperature=1,1.0"]}, "names 1 twice"),
        ({"sweeps": ["distill.temperature=-1,2"]}, "distill.temperature"),
        ({"sweeps": ["seed=1,2"]}, "--seeds"),
        ({"sweeps": ["federation.scheme=local"]}, "--schemes"),
        ({"sweeps": ["compress.bits=8", "compress.bits=32"]}, "names compress.bits twice"),
        ({"sweeps": ["compress.bits=8,32"], "overrides": ["compress.bits=8"]}, "both swept and set"),
        ({"overrides": ["seed=3"]}, "--seeds"),
        ({"overrides": ["data.sorce=digits"]}, "data.source"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    given = {"schemes": "local", "seeds": "0"} | arguments

    with pytest.raises(UsageError, match=message):
        make_plan(None, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source=nowhere", "nowhere"),
        ("distill.loss=lk", "unknown"),
        ("exchange.codec=lp9", "lp8"),
        ("student.model=cnn-tinny", "cnn-tiny"),
        ("federation.partitioner=dirichle", "dirichlet"),
        ("federation.num_nodes=5000", "nodes"),
    ],
)
def test_mistakes_in_names_and_data_are_found_before_any_run(override: str, message: str) -> None:
    plan = make_plan(None, schemes="local", seeds="0", overrides=[override])

    with pytest.raises(UsageError, match=message):
        check_plan(plan)


def test_a_scheme_that_cannot_take_the_students_is_found_before_any_run() -> None:
    plan = make_plan(None, schemes="local,weights", seeds="0", overrides=["student.model=cnn-tiny,mlp-small"])

    with pytest.raises(ConfigError, match="weights"):
        check_plan(plan)


def test_a_bad_swept_value_is_found_before_any_run() -> None:
    plan = make_plan(None, schemes="local", seeds="0", sweeps=["federation.num_nodes=3,5000"])

    with pytest.raises(UsageError, match="5000 nodes"):
        check_plan(plan)


def test_a_missing_configuration_is_named() -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        make_plan(Path("missing.toml"), schemes="local", seeds="0")


def test_example_is_valid_for_every_scheme() -> None:
    example = Path(__file__).parents[3] / "examples" / "compare.toml"

    plan = make_plan(example, schemes=",".join(SCHEMES), seeds="0,1,2")

    assert len(plan.runs) == 3 * len(SCHEMES)
    check_plan(plan)
