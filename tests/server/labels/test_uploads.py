import hashlib
import shutil

import google_crc32c
import pytest

from fedstill.common.errors import DigestError, UsageError
from fedstill.protos.fedstill.v1 import labels_pb2
from fedstill.server.labels.uploads import MAX_UPLOAD_BYTES, check_room, receive_upload

CONTENT = {"student.safetensors": b"weights", "artefact/model.onnx": b"model" * 100, "artefact/empty": b""}


def announce(files, run_id="run-1", node_id="node-0001"):
    return labels_pb2.UploadArtefactRequest(
        header=labels_pb2.UploadHeader(
            run_id=run_id,
            node_id=node_id,
            files=[
                labels_pb2.FileInfo(
                    path=path, num_bytes=len(content), sha256=hashlib.sha256(content).digest()
                )
                for path, content in files.items()
            ],
        )
    )


def carry(index, content, offset=0, crc=None):
    return labels_pb2.UploadArtefactRequest(
        payload=labels_pb2.UploadPayload(
            file_index=index,
            offset=offset,
            payload=content,
            crc32c=google_crc32c.value(content) if crc is None else crc,
        )
    )


def whole(files, **names):
    return [
        announce(files, **names),
        *(carry(i, content) for i, content in enumerate(files.values()) if content),
    ]


@pytest.fixture
def receive(tmp_path):
    return lambda parts: receive_upload(iter(parts), uploads_dir=tmp_path / "nodes", run_id="run-1")


def stored(tmp_path):
    root = tmp_path / "nodes"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_arrive_under_their_node(receive, tmp_path):
    assert receive(whole(CONTENT)) == 507
    assert stored(tmp_path) == {f"node-0001/{path}": content for path, content in CONTENT.items()}


def test_sending_again_changes_nothing(receive, tmp_path):
    receive(whole(CONTENT))
    before = stored(tmp_path)
    assert receive(whole(CONTENT)) == 507
    assert stored(tmp_path) == before


def test_payloads_may_come_in_pieces(receive, tmp_path):
    receive([announce({"a": b"abcdef"}), carry(0, b"abc"), carry(0, b"def", offset=3)])
    assert stored(tmp_path) == {"node-0001/a": b"abcdef"}


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "/etc/passwd",
        "a/../../evil",
        "",
        ".",
        "a//b",
        "a/",
        ".hidden",
        "a\\b",
        "a\0b",
        "a/b/c/d/e",
        "x" * 200,
    ],
)
def test_paths_that_leave_the_folder_are_refused(receive, tmp_path, path):
    with pytest.raises(UsageError, match="path"):
        receive(whole({path: b"x"}))
    assert stored(tmp_path) == {}


@pytest.mark.parametrize("name", ["", "..", "../node", "a/b", ".upload-x", "n\n"])
def test_names_that_are_no_names_are_refused(receive, name):
    with pytest.raises(UsageError, match="node id"):
        receive(whole(CONTENT, node_id=name))


def test_another_run_is_refused(receive):
    with pytest.raises(UsageError, match="another run"):
        receive(whole(CONTENT, run_id="run-2"))


def test_a_file_cannot_also_be_a_folder(receive):
    with pytest.raises(UsageError, match="both a file and a folder"):
        receive(whole({"a": b"x", "a/b": b"y"}))


def test_too_many_files_are_refused(receive):
    with pytest.raises(UsageError, match="1 to 64 files"):
        receive(whole({f"f{index}": b"x" for index in range(65)}))


def test_too_many_bytes_are_refused_before_they_come(receive):
    header = announce({"a": b"x"})
    header.header.files[0].num_bytes = MAX_UPLOAD_BYTES + 1
    with pytest.raises(UsageError, match="at most"):
        receive([header])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [carry(0, b"abc")],
        [announce({"a": b"abc"})],
        [announce({"a": b"abc"}), carry(0, b"ab")],
        [announce({"a": b"abc"}), carry(0, b"abcd")],
        [announce({"a": b"abc"}), carry(0, b"abc"), carry(0, b"d", offset=3)],
        [announce({"a": b"abc"}), carry(1, b"abc")],
        [announce({"a": b"abc"}), carry(0, b"abc", offset=1)],
        [announce({"a": b"abc"}), carry(0, b"")],
        [announce({"a": b"abc"}), announce({"a": b"abc"})],
    ],
)
def test_streams_out_of_order_are_refused_and_leave_nothing(receive, tmp_path, parts):
    with pytest.raises(UsageError, match="upload"):
        receive(parts)
    assert stored(tmp_path) == {}


def test_a_payload_with_a_wrong_crc_is_refused(receive, tmp_path):
    with pytest.raises(DigestError, match="CRC-32C"):
        receive([announce({"a": b"abc"}), carry(0, b"abc", crc=1)])
    assert stored(tmp_path) == {}


def test_a_file_with_a_wrong_sha256_replaces_nothing(receive, tmp_path):
    receive(whole({"a": b"abc"}))
    with pytest.raises(DigestError, match="SHA-256"):
        receive([announce({"a": b"xyz"}), carry(0, b"abc")])
    assert stored(tmp_path) == {"node-0001/a": b"abc"}


def test_the_last_space_of_the_disk_is_not_for_uploads(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path, 1)
    with pytest.raises(
        OSError, match=rf"upload: {free} bytes are announced, .* stay free for the run itself"
    ):
        check_room(tmp_path, free)
