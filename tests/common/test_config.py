"""The configuration: read from TOML, `--set` and Flower's run configuration, documented in one place."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstill.common.config import (
    Config,
    build_config,
    defaults,
    flatten,
    from_run_config,
    load_config,
    reference,
    to_toml,
)
from fedstill.common.errors import ConfigError

every_key = pytest.mark.parametrize("key", sorted(defaults()))


def read(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def set_one(item):
    key = item.partition("=")[0]
    return flatten(load_config(overrides=[item]))[key]


@every_key
def test_reference_documents_the_key_above_its_default(key):
    section, _, name = key.rpartition(".")
    table = reference().split(f"\n[{section}]\n")[1] if section else reference()
    assert re.search(rf"^# .{{10,}}\n{re.escape(name)} = ", table, flags=re.MULTILINE)


def test_reference_reads_back_as_the_defaults(tmp_path):
    assert read(tmp_path, reference()) == Config()


def test_reference_says_every_limit_in_full():
    text = reference()
    assert "(≥ 4096, ≤ 3145728)" in text
    assert not re.search(r"[≤≥<>] \d[\d.]*e", text)


def test_reference_lists_the_choices():
    assert "(one of auto, image, tabular, series, text, sequence)" in reference()


@every_key
def test_the_default_may_be_set(key):
    value = defaults()[key]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert set_one(f"{key}={text}") == value


@every_key
def test_a_value_of_another_type_is_refused(key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        build_config({key: object()})


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("seed=7", 7),
        ("distill.temperature=2", 2.0),
        ("distill.temperature=2.5", 2.5),
        ("teacher.learning_rate=1e-4", 1e-4),
        ("teacher.augment=false", False),
        ("exchange.port = 8080 ", 8080),
        ("compress.bits=32", 32),
        ("data.source=some/data.npz", "some/data.npz"),
        ("data.source='with space'", "with space"),
        ('data.source="quoted"', "quoted"),
        ("data.source=it's", "it's"),
        ("data.source=a=b", "a=b"),
        ("data.source=2024", "2024"),
        ("data.source=true", "true"),
        ("data.source=C:\\data", "C:\\data"),
        ("data.group_column=", ""),
        ("student.model=cnn-tiny,mlp-small", "cnn-tiny,mlp-small"),
        ("student.model=['cnn-tiny', 'mlp-small']", "cnn-tiny,mlp-small"),
    ],
)
def test_set_reads_the_value_in_the_type_of_the_key(item, value):
    found = set_one(item.replace(" = ", "="))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("item", ["seed", "", "distill.temperature"])
def test_set_without_a_value_is_refused(item):
    with pytest.raises(ConfigError, match="--set takes key=value, got"):
        load_config(overrides=[item])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("distill.temprature", "distill.temperature"),
        ("distill.lambda_", "distill.lambda"),
        ("federation.nodes", "federation.num_nodes"),
        ("temperature", "distill.temperature"),
        ("sede", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(ConfigError, match=f"unknown configuration key {key}; did you mean {nearest}"):
        load_config(overrides=[f"{key}=1"])


def test_a_key_far_from_all_others_points_to_the_reference():
    with pytest.raises(ConfigError, match="fedstill config"):
        build_config({"qqqqqqqqq": 1})


@pytest.mark.parametrize(
    "item",
    [
        "seed=-1",
        "seed=9223372036854775808",
        "distill.temperature=0",
        "distill.temperature=101",
        "distill.lambda=1.1",
        "student.width=0",
        "federation.num_nodes=0",
        "federation.num_nodes=1.5",
        "federation.quorum=0",
        "federation.alpha=inf",
        "federation.alpha=nan",
        "data.num_server=0",
        "data.num_server=inf",
        "data.test_fraction=1",
        "exchange.port=65536",
        "exchange.chunk_bytes=100",
        "compress.bits=16",
        "compress.bits=true",
        "teacher.augment=1",
        "seed=true",
        "distill.temperature=hot",
        "distill.temperature=",
        "distill.temperature=true",
        "data.task=video",
        "teacher.weight_decay=-0.1",
        f"distill.temperature={'9' * 400}",
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(item):
    with pytest.raises(ConfigError, match=re.escape(item.partition("=")[0])) as raised:
        load_config(overrides=[item])
    assert "\n" not in str(raised.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError, match=r"seed: .*; distill\.lambda: "):
        build_config({"seed": -1, "distill.lambda": 2.0})


@pytest.mark.parametrize("key", ["data.num_server", "data.num_public"])
@pytest.mark.parametrize("value", [0.25, 1, 500])
def test_a_size_may_be_a_fraction_or_a_count(key, value):
    assert flatten(build_config({key: value}))[key] == value


@pytest.mark.parametrize("key", ["data.num_server", "data.num_public"])
def test_a_broken_count_is_refused(key):
    with pytest.raises(ConfigError, match=f"{key}: expected a whole count above 1 or a fraction, got 1.5"):
        build_config({key: 1.5})


def test_private_parts_have_to_leave_training_samples():
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        build_config({"data.private_test_fraction": 0.5, "data.private_validation_fraction": 0.5})


def test_a_checkpoint_has_to_be_safetensors():
    with pytest.raises(ConfigError, match=r"teacher.checkpoint: expected a .safetensors file, got 'x.pt'"):
        build_config({"teacher.checkpoint": "x.pt"})


def test_a_file_sets_what_it_names(tmp_path):
    config = read(tmp_path, "seed = 3\n[distill]\nlambda = 1\n[federation]\nnum_nodes = 4\n")
    changed = {key: value for key, value in flatten(config).items() if value != defaults()[key]}
    assert changed == {"seed": 3, "distill.lambda": 1.0, "federation.num_nodes": 4}


def test_set_goes_before_the_file(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 3")
    assert load_config(tmp_path / "config.toml", overrides=["seed=4", "seed=5"]).seed == 5


def test_a_list_in_a_file_is_joined_by_commas(tmp_path):
    assert read(tmp_path, '[student]\nmodel = ["a", "b"]').student.model == "a,b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "is not valid TOML"),
        ("[distill\n", "is not valid TOML"),
        ("seed = 1\nseed = 2", "is not valid TOML"),
        ("distill = 1", "unknown configuration key distill"),
        ("[distill.inner]\na = 1", "unknown configuration key distill.inner"),
        ("[distil]\ntemperature = 1.0", "did you mean distill.temperature"),
        ("[[data]]\nsource = 'x'", "unknown configuration key data"),
        ("[data]\nsource = 1979-05-27", "data.source: input should be a valid string"),
        ("[data]\nnum_public = '0.4'", "data.num_public: input should be a valid number"),
        ("[privacy]\nepsilon = 1", "unknown configuration key privacy.epsilon"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(tmp_path / "config.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration .*none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_toml_reads_back_as_the_same_configuration(tmp_path):
    config = build_config({"data.source": 'a "quoted" \\ path', "distill.lambda": 0.25, "seed": 2**63 - 1})
    assert read(tmp_path, to_toml(config)) == config


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    source=st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    lambda_=st.floats(0, 1),
    augment=st.booleans(),
)
def test_flat_keys_read_back_as_the_same_configuration(seed, source, lambda_, augment):
    config = build_config(
        {"seed": seed, "data.source": source, "distill.lambda": lambda_, "teacher.augment": augment}
    )
    assert from_run_config(flatten(config)) == config


def test_the_launchs_own_keys_are_ignored():
    assert from_run_config({"run.dir": "/there", "run.resume": True, "seed": 5}) == build_config({"seed": 5})


def test_an_unknown_key_of_flowers_configuration_is_refused():
    with pytest.raises(ConfigError, match=r"unknown configuration key runs\.dir"):
        from_run_config({"runs.dir": ""})


def test_flat_values_are_scalars_that_flower_takes():
    assert {type(value) for value in defaults().values()} <= {bool, int, float, str}


@pytest.mark.parametrize(("key", "option"), [("run.dir", "--run-dir DIR"), ("run.resume", "--resume RUN")])
def test_a_key_of_the_launch_is_sent_to_its_option(key, option):
    with pytest.raises(ConfigError, match=f"{key} belongs to the launch, .*{option}"):
        load_config(overrides=[f"{key}=x"])


def test_the_reference_says_that_nothing_protects_what_nodes_send():
    [said] = re.findall(r"\[privacy\]\n# (.*)", reference())
    assert "not protected" in said
    assert not [key for key in defaults() if key.startswith("privacy.")]  # else there is more to say
