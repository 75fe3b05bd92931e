"""The cache and uploads over mutual TLS, on a line that is cut: as on plaintext, they resume."""

import numpy as np
import pytest

from fedstill.clients.labels import LabelCache, Transport, upload_array
from fedstill.common.errors import AccessError, ExchangeError
from fedstill.server.labels import LabelService
from fedstill.server.labels.access import ACCESS_FILE, open_round
from fedstill.server.pki.authority import init_authority, issue_node
from fedstill.server.pki.enrolment import write_bundle


@pytest.fixture
def bundle(tmp_path):
    init_authority(tmp_path / "ca")
    write_bundle(tmp_path / "kitchen", "kitchen", issue_node(tmp_path / "ca", "kitchen").files)
    return tmp_path / "kitchen"


@pytest.fixture
def nonce(tmp_path):
    return open_round(tmp_path, "run-1", 1, ["kitchen"])


@pytest.fixture
def service(store, tmp_path, bundle, nonce):
    with LabelService(
        store,
        uploads_dir=tmp_path / "uploads",
        run_id="run-1",
        certificates_dir=tmp_path / "ca",
        access_file=tmp_path / ACCESS_FILE,
    ) as running:
        yield running


@pytest.fixture
def cache(tmp_path, bundle):
    opened = LabelCache(tmp_path / "cache", num_attempts=4, backoff_seconds=0.02, transport=Transport(bundle))
    yield opened
    opened.close()


def test_a_cut_stream_goes_on_where_it_broke(line, cache, digest, samples):
    line.cut_after, line.num_cuts = 700_000, 2
    fetched = cache.fetch_array(line.address, digest)
    np.testing.assert_array_equal(fetched.array, samples)
    assert line.num_cuts == 0
    assert fetched.wire_bytes < 2 * fetched.chunk_bytes


def test_a_cut_upload_goes_on_where_it_broke(line, bundle, nonce, tmp_path):
    line.cut_up_after, line.num_cuts = 300_000, 1
    sent = upload_array(
        line.address,
        np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32),
        run_id="run-1",
        round_number=1,
        node_id="kitchen",
        nonce=nonce,
        transport=Transport(bundle),
        chunk_bytes=65_536,
        backoff_seconds=0.02,
    )
    assert (tmp_path / "uploads/round-00001/kitchen" / sent.digest.hex()).is_dir()


def test_a_line_that_is_always_cut_is_no_matter_of_certificates(line, cache, digest):
    line.cut_after, line.num_cuts = 10, 1000
    with pytest.raises(ExchangeError, match="check that it runs") as caught:
        cache.fetch_array(line.address, digest)
    assert not isinstance(caught.value, AccessError)
