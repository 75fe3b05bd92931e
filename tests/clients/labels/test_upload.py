import pytest

from fedstill.clients.labels import upload_artefact
from fedstill.common.errors import DigestError, ExchangeError

NAMES = {"run_id": "run-1", "node_id": "node-0001"}
MARK = bytes([171]) * 64
QUICK = {"num_attempts": 3, "backoff_seconds": 0.02}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "model.onnx").write_bytes(bytes(range(256)) * 10_000)
    (tmp_path / "manifest.json").write_text("{}")
    return {
        "artefact/model.onnx": tmp_path / "model.onnx",
        "artefact/manifest.json": tmp_path / "manifest.json",
    }


def stored(tmp_path):
    root = tmp_path / "uploads"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_arrive_at_the_service(service, files, tmp_path):
    upload_artefact(service.address, files=files, **NAMES)
    assert stored(tmp_path) == {f"node-0001/{path}": file.read_bytes() for path, file in files.items()}


def test_the_bytes_moved_are_a_little_more_than_the_files(service, files):
    num_bytes = upload_artefact(service.address, files=files, **NAMES)
    assert 2_560_002 < num_bytes < 2_561_000


def test_uploading_again_costs_the_same_and_changes_nothing(service, files, tmp_path):
    first = upload_artefact(service.address, files=files, **NAMES)
    before = stored(tmp_path)
    assert upload_artefact(service.address, files=files, **NAMES) == first
    assert stored(tmp_path) == before


@pytest.mark.parametrize("path", ["../../evil", "/evil", "a/../../evil"])
def test_a_path_out_of_the_folder_is_refused(service, files, tmp_path, path):
    with pytest.raises(ExchangeError, match=r"refused.*path"):
        upload_artefact(service.address, files={path: files["artefact/model.onnx"]}, **NAMES)
    assert stored(tmp_path) == {}


def test_another_run_is_refused(service, files):
    with pytest.raises(ExchangeError, match="another run"):
        upload_artefact(service.address, files=files, run_id="run-2", node_id="node-0001")


def test_a_missing_file_is_named(service, tmp_path):
    with pytest.raises(ExchangeError, match=r"cannot read .*gone\.onnx"):
        upload_artefact(service.address, files={"a": tmp_path / "gone.onnx"}, **NAMES)


def test_a_broken_line_is_tried_again(line, files, tmp_path):
    line.cut_after, line.num_cuts = 0, 1
    upload_artefact(line.address, files=files, **NAMES)
    assert line.num_cuts == 0
    assert len(stored(tmp_path)) == 2


def test_a_byte_flipped_on_the_way_is_sent_again(line, tmp_path):
    (tmp_path / "marked").write_bytes(b"head" + MARK + b"tail")
    line.num_flips = 1
    upload_artefact(line.address, files={"marked": tmp_path / "marked"}, **NAMES, **QUICK)
    assert line.num_flips == 0
    assert stored(tmp_path) == {"node-0001/marked": b"head" + MARK + b"tail"}


def test_bytes_that_stay_altered_are_an_error(line, tmp_path):
    (tmp_path / "marked").write_bytes(MARK)
    line.num_flips = 1_000
    with pytest.raises(DigestError, match="marked"):
        upload_artefact(line.address, files={"marked": tmp_path / "marked"}, **NAMES, **QUICK)
    assert stored(tmp_path) == {}


def test_a_service_out_of_reach_is_named(files):
    with pytest.raises(ExchangeError, match=r"127\.0\.0\.1:9 "):
        upload_artefact("127.0.0.1:9", files=files, **NAMES, **QUICK)


def test_a_silent_line_ends_with_an_error(line, files):
    line.silent.set()
    with pytest.raises(ExchangeError, match="nothing moved"):
        upload_artefact(line.address, files=files, timeout_seconds=0.2, **NAMES, **QUICK)
