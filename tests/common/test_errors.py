"""Exit codes of the error tree, and the error for unknown names."""

import pytest

from fedstill.common import errors

TREE = [
    (errors.FedStillError, Exception, 1),
    (errors.UsageError, errors.FedStillError, 2),
    (errors.ConfigError, errors.UsageError, 2),
    (errors.DataError, errors.UsageError, 2),
    (errors.CheckpointError, errors.UsageError, 2),
    (errors.ExchangeError, errors.FedStillError, 1),
    (errors.DigestError, errors.ExchangeError, 1),
    (errors.BusyError, errors.ExchangeError, 1),
    (errors.AccessError, errors.ExchangeError, 1),
    (errors.NonFiniteError, errors.ExchangeError, 1),
    (errors.NotPublishedError, errors.ExchangeError, 1),
    (errors.ArtefactError, errors.FedStillError, 2),
    (errors.RunError, errors.FedStillError, 1),
]


@pytest.mark.parametrize(("kind", "parent", "exit_code"), TREE)
def test_error_has_its_place_and_exit_code(kind, parent, exit_code):
    assert kind.__bases__ == (parent,)
    assert kind.exit_code == exit_code


def test_every_error_is_in_the_tree():
    found = {item for item in vars(errors).values() if isinstance(item, type)}
    assert {item for item in found if issubclass(item, Exception)} == {kind for kind, _, _ in TREE}


def test_unknown_name_names_the_nearest_and_all():
    error = errors.unknown_name("codec", "fp61", ["lp8", "fp16", "fp32"])
    assert str(error) == "unknown codec 'fp61'; did you mean 'fp16'? Known: fp16, fp32, lp8."


def test_unknown_name_guesses_nothing_where_nothing_is_near():
    error = errors.unknown_name("loss", "banana", ["kl"])
    assert str(error) == "unknown loss 'banana'. Known: kl."


def test_unknown_name_is_a_configuration_error():
    assert isinstance(errors.unknown_name("loss", "x", []), errors.ConfigError)
