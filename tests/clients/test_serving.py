"""What a device serves: switched whole, only after the canary, and back again."""

import threading

import numpy as np
import pytest

from fedstill.clients.serving import CURRENT, RELEASES, Canary, install_artefact, roll_back
from fedstill.common.artefact import read_artefact, write_artefact
from fedstill.common.datasets import Samples
from fedstill.common.errors import ArtefactError, DataError, UsageError
from fedstill.common.students import build_student, export_student


@pytest.fixture
def canary(digits):
    data = digits.dataset
    return Canary(Samples(data.x_test, data.y_test))


@pytest.fixture
def untrained_dir(tmp_path, digits, manifest):
    exported = export_student(
        build_student(digits.design, seed=1), digits.design, calibration_S=digits.dataset.x_train[:64]
    )
    write_artefact(tmp_path / "untrained", exported.model.files, manifest)
    return tmp_path / "untrained"


@pytest.fixture
def renamed_dir(tmp_path, exported, manifest):
    write_artefact(tmp_path / "renamed", exported.model.files, manifest | {"origin": {"run_id": "another"}})
    return tmp_path / "renamed"


def served(serving):
    return read_artefact(serving / CURRENT).manifest["origin"]["run_id"]


def test_the_first_artefact_is_served_after_its_canary(tmp_path, artefact_dir, canary):
    release = install_artefact(artefact_dir, tmp_path / "serving", canary=canary)
    assert served(tmp_path / "serving") == "r"
    assert release.accuracy > 0.8
    assert release.served_accuracy is None


def test_a_worse_artefact_is_refused_and_the_served_one_stays(tmp_path, artefact_dir, untrained_dir, canary):
    serving = tmp_path / "serving"
    install_artefact(artefact_dir, serving, canary=canary)
    with pytest.raises(ArtefactError, match=r"reaches 0\.\d+ on the canary, the served one 0\.\d+; what was"):
        install_artefact(untrained_dir, serving, canary=canary)
    assert served(serving) == "r"
    assert len(list((serving / RELEASES).iterdir())) == 1


def test_what_is_wanted_at_least_is_wanted_of_the_first_too(tmp_path, untrained_dir, canary):
    with pytest.raises(ArtefactError, match=r"0\.900 is wanted"):
        install_artefact(untrained_dir, tmp_path / "s", canary=Canary(canary.samples, min_accuracy=0.9))
    assert not (tmp_path / "s" / CURRENT).exists()


def test_rolling_back_serves_the_one_before_and_can_be_undone(tmp_path, artefact_dir, renamed_dir):
    serving = tmp_path / "serving"
    install_artefact(artefact_dir, serving)
    install_artefact(renamed_dir, serving)
    assert served(serving) == "another"
    roll_back(serving)
    assert served(serving) == "r"
    roll_back(serving)
    assert served(serving) == "another"


def test_there_is_nothing_before_the_first(tmp_path, artefact_dir):
    install_artefact(artefact_dir, tmp_path / "serving")
    install_artefact(artefact_dir, tmp_path / "serving")
    with pytest.raises(UsageError, match="no artefact before the present one"):
        roll_back(tmp_path / "serving")


def test_only_two_releases_are_kept(tmp_path, exported, manifest):
    for number in range(4):
        write_artefact(tmp_path / "new", exported.model.files, manifest | {"origin": {"run_id": str(number)}})
        install_artefact(tmp_path / "new", tmp_path / "serving")
    assert served(tmp_path / "serving") == "3"
    assert len(list((tmp_path / "serving" / RELEASES).iterdir())) == 2


def test_an_altered_artefact_is_never_served(tmp_path, artefact_dir, renamed_dir):
    serving = tmp_path / "serving"
    install_artefact(artefact_dir, serving)
    model = renamed_dir / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtefactError, match="truncated or altered"):
        install_artefact(renamed_dir, serving)
    assert served(serving) == "r"


def test_an_altered_predecessor_is_not_rolled_back_to(tmp_path, artefact_dir, renamed_dir):
    serving = tmp_path / "serving"
    install_artefact(artefact_dir, serving)
    install_artefact(renamed_dir, serving)
    (serving / (serving / "previous").readlink() / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtefactError, match="truncated or altered"):
        roll_back(serving)
    assert served(serving) == "another"


def test_a_canary_without_labels_is_refused(tmp_path, artefact_dir):
    with pytest.raises(DataError, match="needs labelled samples"):
        install_artefact(
            artefact_dir, tmp_path / "s", canary=Canary(Samples(np.zeros((1, 8, 8), np.uint8), None))
        )


def test_a_reader_that_resolves_the_link_never_sees_a_mixture(tmp_path, artefact_dir, untrained_dir):
    serving, stop, seen, problems = tmp_path / "serving", threading.Event(), set(), []
    install_artefact(artefact_dir, serving)

    def read():
        while not stop.is_set():
            try:
                seen.add(read_artefact((serving / CURRENT).resolve()).folder.name)
            except ArtefactError as error:
                problems.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        install_artefact(untrained_dir, serving)
        install_artefact(artefact_dir, serving)
    stop.set()
    reader.join()
    assert not problems
    assert seen <= {path.name for path in (serving / RELEASES).iterdir()}
