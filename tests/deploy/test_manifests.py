"""Every file under deploy/ passes its own validator. None of it is run here: no Docker engine, no cluster."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from fedstill.common.config import build_config, load_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# What systemd calls "OK" ends at 5.0 of 10; these units reach 1.4.
MAX_EXPOSURE = 20


def run(*command, **options):
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def tool(name):
    if (path := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed")
    return path


def load_all(text):
    return [document for document in yaml.safe_load_all(text) if document]


def test_yaml_is_well_formed():
    run(BIN / "yamllint", "--strict", "-c", ROOT / ".yamllint.yaml", DEPLOY)


def test_compose_follows_its_specification():
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose/compose.yaml")


def compose():
    return yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())


def test_every_service_has_a_health_check():
    services = compose()["services"]
    assert {"coordinator", "device-a", "prometheus", "alertmanager", "grafana"} <= set(services)
    assert all("healthcheck" in service for service in services.values())


def test_what_compose_mounts_from_the_repository_is_there():
    made_by_users = ("./certificates", "./data")
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not source.startswith(made_by_users):
                assert (DEPLOY / "compose" / source).exists(), source


def test_the_options_that_compose_gives_are_those_of_the_programs():
    services = compose()["services"]
    for service, program in (("coordinator", "fedstill"), ("device-a", "fedstill-node")):
        command, *options = services[service]["command"]
        known = run(BIN / program, command, "--help", env={"COLUMNS": "200", "PATH": "/bin"})
        for word in options:
            assert word.split("=")[0] in known, word


def test_the_settings_that_compose_gives_are_the_configurations():
    words = compose()["services"]["coordinator"]["command"]
    overrides = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    config = load_config(overrides=overrides)
    assert config.data.private == "nodes"
    assert config.exchange.port == 9500
    for port in (config.exchange.port, 8000):
        assert f"{port}:{port}" in compose()["services"]["coordinator"]["ports"]


def test_only_the_devices_door_leaves_the_coordinator():
    assert "--host=0.0.0.0" in compose()["services"]["coordinator"]["command"]
    assert len(compose()["services"]["coordinator"]["ports"]) == 2  # SuperLink and label service


def test_compose_mounts_the_bundles_and_the_authority_where_the_commands_look():
    services = compose()["services"]
    for name in ("device-a", "device-b"):
        assert services[name]["command"] == ["run", "--bundle=/bundle"]
        assert f"./certificates/bundles/{name}:/bundle:ro" in services[name]["volumes"]
    assert "./certificates:/certificates:ro" in services["coordinator"]["volumes"]


def test_what_compose_tells_to_do_before_makes_what_it_mounts(tmp_path):
    comment = re.findall(
        r"^# {2,}(fedstill .*)$", (DEPLOY / "compose/compose.yaml").read_text(), re.MULTILINE
    )
    assert any("fleet release" in line for line in comment)
    for line in comment:
        words = line.partition("#")[0].replace("$node", "device-a").split()
        run(BIN / words[0], *words[1:], cwd=tmp_path)
    folder = tmp_path / "certificates"
    assert {"ca.crt", "server.crt", "server.key", "fleet.json", "releases.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert (folder / "bundles/device-a/node.toml").read_text().splitlines()[1:] == [
        'superlink = "coordinator:8000"',
        'data = "/data"',
    ]


@pytest.mark.parametrize("name", ["server", "device"])
def test_dockerfiles_pass_hadolint(name):
    run(BIN / "hadolint", DEPLOY / "docker" / f"{name}.Dockerfile")


@pytest.mark.parametrize("name", ["server", "device"])
def test_images_copy_what_exists_and_do_not_run_as_root(name):
    text = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text()
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    assert text.rindex("USER 10001") > text.rindex("FROM ")
    if name == "device":
        assert "server" not in re.findall(r"^COPY (\S+)", text, re.MULTILINE)


def test_the_coordinators_resources_are_valid(tmp_path):
    rendered = run(tool("kubectl"), "kustomize", DEPLOY / "kubernetes/coordinator")
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered)
    run(BIN / "kubernetes-validate", "--strict", path)
    assert {document["kind"] for document in load_all(rendered)} >= {
        "StatefulSet",
        "Service",
        "NetworkPolicy",
    }


def test_the_coordinators_configuration_is_one():
    (configmap,) = load_all((DEPLOY / "kubernetes/coordinator/configuration.yaml").read_text())
    document = tomllib.loads(configmap["data"]["federation.toml"])
    flat = {f"{section}.{key}": value for section, keys in document.items() for key, value in keys.items()}
    assert build_config(flat).monitoring.port == 9400


def test_the_ray_clusters_pods_are_valid(tmp_path):
    # KubeRay's kinds have no schema here; the pods inside them are Kubernetes' own.
    rendered = load_all(run(tool("kubectl"), "kustomize", DEPLOY / "kubernetes/simulation"))
    (cluster,) = [document for document in rendered if document["kind"] == "RayCluster"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{index}"}, **group["template"]}
        for index, group in enumerate(groups)
    ]
    path = tmp_path / "pods.yaml"
    path.write_text(yaml.safe_dump_all(pods))
    run(BIN / "kubernetes-validate", "--strict", path)
    assert cluster["spec"]["rayVersion"] == version("ray")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_valid_where_their_programs_are(unit, tmp_path):
    installed = unit.read_text().replace("/opt/fedstill/bin", str(BIN)).replace("User=fedstill", "User=root")
    path = tmp_path / unit.name
    path.write_text(re.sub(r"Documentation=.*\n", "", installed))
    run(tool("systemd-analyze"), "verify", "--man=no", path)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_hardened(unit):
    analyze = tool("systemd-analyze")
    run(analyze, "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", unit)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_options_that_units_give_are_those_of_the_commands(unit):
    (line,) = re.findall(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE)
    program, command, *words = line.split()
    known = run(BIN / Path(program).name, command, "--help", env={"COLUMNS": "200", "PATH": "/bin"})
    for word in words:
        assert not word.startswith("--") or word in known, word
