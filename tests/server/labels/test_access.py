"""Members of a run fetch from it and upload to it, as themselves and for rounds that are open."""

import numpy as np
import pytest

from fedstill.clients.labels import Transport, upload_array, upload_artefact
from fedstill.common.errors import AccessError
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.labels.access import ACCESS_FILE, open_round


def test_a_member_fetches_and_uploads(federation, kitchen):
    nonce = federation.open_round(1, "kitchen")
    np.testing.assert_array_equal(federation.fetch(kitchen).array, np.arange(100))
    sent = federation.upload(kitchen, nonce, node_id="kitchen")
    assert (federation.folder / "run/uploads/round-00001/kitchen" / sent.digest.hex()).is_dir()


def test_an_enrolled_node_of_another_run_gets_nothing(federation, kitchen):
    federation.open_round(1, "attic")
    with pytest.raises(AccessError, match="kitchen does not belong to run run-1"):
        federation.fetch(kitchen)


def test_before_its_first_round_a_run_gives_nobody_anything(federation, kitchen):
    with pytest.raises(AccessError, match="this run, which has no nodes yet"):
        federation.fetch(kitchen)


def test_a_node_uploads_as_itself_only(federation, kitchen):
    nonce = federation.open_round(1, "kitchen", "attic")
    with pytest.raises(AccessError, match="the certificate is that of kitchen, the upload that of 'attic'"):
        federation.upload(kitchen, nonce, node_id="attic")
    assert not (federation.folder / "run/uploads/round-00001/attic").exists()
    assert [(event.node_id, event.reason) for event in federation.refused] == [("attic", "forbidden")]


def test_files_of_an_artefact_are_their_nodes_own(federation, kitchen, tmp_path):
    nonce = federation.open_round(1, "kitchen", "attic")
    (tmp_path / "model.onnx").write_bytes(b"model")
    sending = {"run_id": "run-1", "files": {"artefact/model.onnx": tmp_path / "model.onnx"}}
    options = {"nonce": nonce, "transport": Transport(kitchen), "num_attempts": 1}
    with pytest.raises(AccessError, match="the upload that of 'attic'"):
        upload_artefact(federation.address, node_id="attic", **sending, **options)
    upload_artefact(federation.address, node_id="kitchen", **sending, **options)
    assert (federation.folder / "run/nodes/kitchen/artefact/model.onnx").read_bytes() == b"model"
    assert not (federation.folder / "run/nodes/attic").exists()


def test_an_upload_of_a_closed_round_is_refused(federation, kitchen):
    nonce = federation.open_round(1, "kitchen")
    federation.open_round(2, "kitchen")
    with pytest.raises(AccessError, match="upload for round 1, but round 2 is open"):
        federation.upload(kitchen, nonce, node_id="kitchen")


def test_a_round_that_is_kept_open_takes_what_answers_its_own_task(federation, kitchen):
    old = federation.open_round(1, "kitchen")
    folder = federation.folder / "run"
    for number in (2, 3):
        open_round(folder, "run-1", number, ["kitchen"], keep_from=1)
    federation.upload(kitchen, old, node_id="kitchen")
    with pytest.raises(AccessError, match="answers no task of round 2"):
        federation.upload(kitchen, old, node_id="kitchen", round_number=2)
    open_round(folder, "run-1", 4, ["kitchen"], keep_from=2)
    with pytest.raises(AccessError, match="upload for round 1, but round 4 is open"):
        federation.upload(kitchen, old, node_id="kitchen")


def test_what_answered_another_rounds_task_is_refused(federation, kitchen):
    old = federation.open_round(1, "kitchen")
    federation.open_round(2, "kitchen")
    with pytest.raises(AccessError, match="answers no task of round 2: it comes late or is replayed"):
        federation.upload(kitchen, old, node_id="kitchen", round_number=2)
    # A round that is done again after a crash is another one too.
    again = federation.open_round(2, "kitchen")
    federation.upload(kitchen, again, node_id="kitchen", round_number=2)


def test_a_plaintext_run_refuses_replays_too(tmp_path):
    service = LabelService(
        LabelStore(tmp_path / "labels"), uploads_dir=tmp_path / "nodes", access_file=tmp_path / ACCESS_FILE
    )
    old, _ = (open_round(tmp_path, "run-1", number, ["kitchen"]) for number in (1, 2))
    sending = {"run_id": "run-1", "node_id": "kitchen", "nonce": old, "num_attempts": 1}
    with service, pytest.raises(AccessError, match="round 2 is open"):
        upload_array(service.address, np.arange(8), round_number=1, **sending)
