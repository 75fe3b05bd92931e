"""A user's own modules: where they are looked for, what is told of them, which files they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedstill.common.errors import ConfigError
from fedstill.common.modules import (
    copy_files,
    digest_files,
    is_reference,
    list_files,
    load_reference,
    looking_in,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str):
    return load_reference(name, key="student.model")


@pytest.mark.parametrize("name", ["mine:student", "package.layers:Build.make", "größe:f"])
def test_references_name_a_module_and_something_in_it(name: str):
    assert is_reference(name)


@pytest.mark.parametrize("name", ["mine", "mine:", ":f", "a/b:c", "C:\\data", "hf:user/set", "a b:c", "1:f"])
def test_other_names_are_no_references(name: str):
    assert not is_reference(name)


def test_what_stands_beside_a_module_can_be_imported_by_it(folder: Path):
    (folder / "mod_helper.py").write_text("VALUE = 7\n")
    (folder / "mod_main.py").write_text(
        "from mod_helper import VALUE\ndef late():\n    import mod_later\n    return VALUE + mod_later.MORE\n"
    )
    (folder / "mod_later.py").write_text("MORE = 1\n")
    assert load("mod_main:late")() == 8


def test_the_working_directory_covers_no_installed_module(folder: Path):
    (folder / "json.py").write_text("def loads(text):\n    return 'stolen'\n")
    with pytest.raises(ConfigError, match=r"json\.py bears the name of another module.*rename"):
        load("json:loads")
    import json

    assert json.loads("1") == 1


def test_modules_of_one_name_in_two_folders_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mod_twice.py").write_text(f"WHO = {name!r}\n")
        monkeypatch.chdir(tmp_path / name)
        assert load("mod_twice:WHO") == name


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import no_such_library\n",
            r"ModuleNotFoundError: No module named 'no_such_library' \(mod_bad.py, line 1\)",
        ),
        ("\ndef f(:\n", r"SyntaxError: .*mod_bad.py, line 2"),
        ("raise ValueError('two\\nlines')\n", r"ValueError: two lines \(mod_bad.py, line 1\)"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_module_that_does_not_import_says_why(folder: Path, code: str, told: str):
    (folder / "mod_bad.py").write_text(code)
    with pytest.raises(ConfigError, match=rf"student\.model: .*mod_bad\.py does not import: {told}") as error:
        load("mod_bad:f")
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_there_gets_the_nearest(folder: Path):
    (folder / "mod_near.py").write_text("def student():\n    pass\n")
    with pytest.raises(ConfigError, match=r"mod_near\.py holds no 'studnet'; did you mean 'student'"):
        load("mod_near:studnet")


def test_a_module_that_is_not_there_says_where_it_was_looked_for(folder: Path):
    other = folder / "beside"
    with looking_in(other), pytest.raises(ConfigError, match=f"no such module in {folder} or {other}"):
        load("mod_missing:f")


def test_child_processes_look_in_the_same_folders(folder: Path):
    beside = folder / "beside"
    beside.mkdir()
    (beside / "mod_child.py").write_text("VALUE = 'seen'\n")
    code = "from fedstill.common.modules import load_reference as f; print(f('mod_child:VALUE', key='k'))"
    with looking_in(beside):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False
        )
    assert (done.stdout.strip(), done.stderr) == ("seen", "")


CONFINED = """
from fedstill.common import modules
def look(name):
    try:
        print(modules.load_reference(name, key="k"))
    except modules.ConfigError as error:
        print("refused", "a device takes" in str(error))
with modules.confined_to_bundle():
    look("mod_bundled:VALUE")
    look("mod_here:VALUE")
    look("json:loads")
look("mod_here:VALUE")
"""


def test_a_device_takes_modules_of_its_bundle_only(folder: Path):
    bundle, here = folder / "bundle", folder / "here"
    (bundle / "modules").mkdir(parents=True)
    here.mkdir()
    root = Path(__file__).parents[2]
    (bundle / "fedstill").symlink_to(root / "fedstill")
    (bundle / "modules" / "mod_bundled.py").write_text("VALUE = 'bundled'\n")
    (here / "mod_here.py").write_text("VALUE = 'here'\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(bundle)!r})\n{CONFINED}"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[:4] == ["bundled", "refused True", "refused True", "here"], done.stderr


def test_files_of_a_module_are_its_own_and_what_it_imports_from_beside_it(folder: Path):
    (folder / "mod_root.py").write_text("import json, mod_dep\nfrom mod_package.layers import make\n")
    (folder / "mod_dep.py").write_text("raise RuntimeError('nothing is run')\n")
    (folder / "mod_unused.py").write_text("")
    (folder / "mod_package").mkdir()
    (folder / "mod_package" / "__init__.py").write_text("")
    (folder / "mod_package" / "layers.py").write_text("def make():\n    pass\n")
    names = ["kl", "json:loads", "mod_root:f", "mod_root:g"]
    expected = ["mod_dep.py", "mod_package/__init__.py", "mod_package/layers.py", "mod_root.py"]
    assert list(list_files(names)) == expected
    copies = copy_files(names, folder / "copies")
    assert [path.relative_to(folder / "copies").as_posix() for path in copies] == expected
    before = digest_files(names)
    (folder / "mod_dep.py").write_text("")
    assert len({before, digest_files(names), ""}) == 3
