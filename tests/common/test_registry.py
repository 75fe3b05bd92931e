"""Registries: our names, those of installed packages, and those of a user's modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedstill.clients.schemes import LEARNERS
from fedstill.common.codecs import CODECS
from fedstill.common.compressors.exporters import EXPORTERS
from fedstill.common.datasets import DATASETS
from fedstill.common.errors import ConfigError
from fedstill.common.losses import FEATURE_LOSSES, LOSSES, get_loss
from fedstill.common.models import MODELS
from fedstill.common.modules import looking_in
from fedstill.common.partitioners import PARTITIONERS
from fedstill.common.registry import Deferred, Registry, gather, marked, require_callable
from fedstill.common.runtimes import RUNTIMES
from fedstill.server.aggregators import AGGREGATORS
from fedstill.server.schemes import SCHEMES

REGISTRIES = [
    AGGREGATORS,
    CODECS,
    DATASETS,
    EXPORTERS,
    FEATURE_LOSSES,
    LEARNERS,
    LOSSES,
    MODELS,
    PARTITIONERS,
    RUNTIMES,
    SCHEMES,
]
every_registry = pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.group)


def install(folder: Path, name: str, *, entry_points: str, module: str = "") -> None:
    """Lays out what pip leaves of a distribution: a module and its dist-info folder."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    (folder / f"{name}.py").write_text(module)


@pytest.fixture
def make_registry():
    def make(**built_in):
        return Registry(
            "colour",
            "fedstill.colours",
            built_in or {"red": str.upper, "green": str.lower},
            lambda found, name: require_callable(found, name, key="colour", signature="a function"),
        )

    return make


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@every_registry
def test_unknown_name_is_told_the_same_everywhere(registry: Registry[object]):
    known = next(iter(registry))
    with pytest.raises(
        ConfigError, match=rf"unknown {registry.key} '{known}x'; did you mean .*Known: "
    ) as told:
        registry[f"{known}x"]
    assert all(name in str(told.value) for name in registry)


@every_registry
def test_built_in_names_cannot_be_registered_again(registry: Registry[object]):
    with pytest.raises(ConfigError, match="built in"):
        registry.register(next(iter(registry)))


@every_registry
def test_every_built_in_loads(registry: Registry[object]):
    assert all(registry[name] is not None for name in registry)
    assert [known.origin for known in registry.known()] == ["built in"] * len(registry)


def test_what_python_registers_is_found_by_its_name(make_registry):
    registry = make_registry()

    @registry.register("mine")
    def mine(text: str) -> str:
        return text

    assert registry["mine"] is mine
    assert list(registry) == ["red", "green", "mine"]
    assert registry.known()[-1].origin.endswith("test_registry.py")


def test_what_is_registered_travels_as_module_and_function(make_registry):
    registry = make_registry()
    registry.register("path")(Path.home)
    registry.register("local")(lambda text: text)
    assert registry.reference("path") == "pathlib:Path.home"
    assert registry.reference("red") == "red"
    with pytest.raises(ConfigError, match="registered in this process only"):
        registry.reference("local")


def test_built_ins_may_be_imported_late(make_registry):
    registry = make_registry(late=Deferred("colorsys:rgb_to_hsv"))
    sys.modules.pop("colorsys", None)
    assert "colorsys" not in sys.modules
    assert registry["late"](0.0, 0.0, 0.0) == (0.0, 0.0, 0.0)


def test_entry_points_of_installed_packages_are_found(make_registry, site: Path):
    install(
        site,
        "paint",
        entry_points="[fedstill.colours]\nblue = paint:blue\n",
        module="def blue(text):\n    return 'blue'\n",
    )
    registry = make_registry()
    assert registry["blue"]("x") == "blue"
    assert registry.names() == ["red", "green", "blue"]
    assert registry.known()[-1].origin == "paint:blue, of paint 1.2"
    with pytest.raises(ConfigError, match="did you mean 'blue'"):
        registry["blu"]


def test_a_loss_of_an_installed_package_is_a_distill_loss(site: Path):
    install(
        site,
        "softer",
        entry_points="[fedstill.losses]\nsofter = softer:softer\n",
        module="def softer(student, teacher, /, *, temperature):\n    return (student - teacher).sum()\n",
    )
    assert get_loss("softer").__name__ == "softer"


def test_a_plug_in_that_shadows_a_built_in_is_refused(make_registry, site: Path):
    install(site, "shady", entry_points="[fedstill.colours]\nred = shady:red\n", module="red = str.upper\n")
    registry = make_registry()
    with pytest.raises(ConfigError, match=r"colour 'red' is built in.*shady 1\.2.*fedstill\.colours"):
        registry["red"]
    assert registry["green"] is str.lower
    assert "refused" in registry.known()[-1].origin


def test_two_plug_ins_of_one_name_are_refused(make_registry, site: Path):
    for name in ("first", "second"):
        install(site, name, entry_points=f"[fedstill.colours]\nblue = {name}:blue\n", module="blue = str\n")
    with pytest.raises(ConfigError, match=r"first 1\.2 and second 1\.2"):
        make_registry()["blue"]


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("import no_such_library\n", "No module named 'no_such_library'"),
        ("raise RuntimeError('out of paint')\n", "RuntimeError: out of paint"),
        ("other = 3\n", "AttributeError"),
    ],
)
def test_a_plug_in_that_does_not_load_says_why(make_registry, site: Path, module: str, told: str):
    install(site, "broken", entry_points="[fedstill.colours]\nblue = broken:blue\n", module=module)
    with pytest.raises(ConfigError, match=rf"broken:blue of broken 1\.2 does not load: .*{told}"):
        make_registry()["blue"]
    sys.modules.pop("broken", None)


def test_a_module_of_the_working_directory_goes_before_one_beside_the_configuration(
    make_registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder, names in ((here, ["one"]), (beside, ["one", "two"])):
        folder.mkdir()
        for name in names:
            (folder / f"reg_{name}.py").write_text(f"def where():\n    return {folder.name!r}\n")
    monkeypatch.chdir(here)
    with looking_in(beside):
        assert make_registry()["reg_one:where"]() == "here"
        assert make_registry()["reg_two:where"]() == "beside"


def test_what_came_over_the_wire_imports_nothing(
    make_registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "reg_wire.py").write_text("def blue():\n    pass\n")
    monkeypatch.chdir(tmp_path)
    registry = make_registry()
    assert registry.knows("red")
    assert not registry.knows("reg_wire:blue")
    assert "reg_wire" not in sys.modules
    assert callable(registry["reg_wire:blue"])
    assert registry.knows("reg_wire:blue")


def test_what_is_no_such_thing_is_refused(make_registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "reg_number.py").write_text("blue = 3\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="colour: expected reg_number:blue to be a function, got int"):
        make_registry()["reg_number:blue"]


def test_code_of_the_users_own_has_a_digest(make_registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "reg_code.py"
    path.write_text("def blue():\n    pass\n")
    monkeypatch.chdir(tmp_path)
    registry = make_registry()
    before = registry.digest_code("reg_code:blue")
    path.write_text("def blue():\n    return 1\n")
    assert registry.digest_code("red") == ""
    assert len({before, registry.digest_code("reg_code:blue"), ""}) == 3


@pytest.fixture
def make_package(site: Path):
    def make(name: str, **modules: str) -> str:
        (site / name).mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (site / name / f"{module}.py").write_text(text)
        __import__(name)
        return name

    return make


def test_what_comes_with_us_is_found_in_the_modules_that_define_it(make_package):
    package = make_package(
        "paints", warm="BUILT_IN = {'red': 1, 'amber': 2}", cold="BUILT_IN = {'blue': 3}", x=""
    )
    assert list(gather(package).items()) == [("amber", 2), ("blue", 3), ("red", 1)]


def test_names_that_come_first_keep_their_order(make_package):
    package = make_package(
        "dyes", one="OTHERS = {'red': 1, 'amber': 2, 'blue': 3}", two="BUILT_IN = {'grey': 4}"
    )
    assert list(gather(package, attribute="OTHERS", first=("red", "blue"))) == ["red", "blue", "amber"]


def test_a_name_of_ours_that_two_modules_give_is_refused(make_package):
    package = make_package("inks", one="BUILT_IN = {'red': 1}", two="BUILT_IN = {'red': 2}")
    with pytest.raises(AssertionError, match=r"inks\.two gives a name of BUILT_IN twice"):
        gather(package)


def test_a_mark_is_an_attribute_of_the_function():
    @marked(compares="maps", takes_weights=True)
    def compare():
        return 3

    assert (compare(), compare.compares, compare.takes_weights) == (3, "maps", True)
