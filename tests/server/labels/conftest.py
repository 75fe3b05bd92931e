"""A running label service over mutual TLS, and a node of it."""

import pytest

from tests.server.labels.federation import Federation


@pytest.fixture
def federation(tmp_path):
    opened = Federation(tmp_path)
    with opened.service:
        yield opened


@pytest.fixture
def kitchen(federation):
    return federation.enrol("kitchen")
