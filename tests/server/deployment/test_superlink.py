"""A real SuperLink behind its doors: who reaches what, and what Flower's own code is held to."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.main import create_app

from fedstill.common.errors import RunError
from fedstill.server.deployment.flower_control import Control
from fedstill.server.deployment.site import OPERATOR_TOKEN, SECRET_FILE, Site, copy_certificates
from fedstill.server.pki.authority import init_authority, issue_node, renew_server, revoke_node
from fedstill.server.pki.enrolment import write_bundle
from tests.superlinks import make_site, running_superlink

pytestmark = pytest.mark.slow
PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}


def list_routes(prefix: str) -> list[str]:
    """Lists what Flower serves by POST under a prefix, from its own app."""
    return sorted(path for path in create_app().openapi()["paths"] if path.startswith(prefix))


def issue_bundle(authority: Path, folder: Path, name: str) -> Path:
    write_bundle(folder / name, name, issue_node(authority, name).files)
    return folder / name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An authority with a coordinator, the enrolled device kitchen, and a stranger's authority."""
    folder = tmp_path_factory.mktemp("doors")
    for name in ("certificates", "other"):
        init_authority(folder / name)
    issue_bundle(folder / "certificates", folder, "kitchen")
    issue_bundle(folder / "other", folder, "stranger")
    opened = make_site(folder / "home", folder / "certificates")
    with running_superlink(opened):
        yield opened


def trusting(site: Site, bundle: Path | None = None) -> httpx.Client:
    """A client that trusts the coordinator, and shows a device's certificate if it has one."""
    assert site.certificates is not None
    context = ssl.create_default_context(cafile=str(site.certificates / "ca.crt"))
    if bundle is not None:
        context.load_cert_chain(bundle / "node.crt", bundle / "node.key")
    return httpx.Client(verify=context, headers=PROTOBUF)


def devices_door(site: Site) -> str:
    return f"https://{site.address}"


def operators_door(site: Site) -> str:
    return f"https://{site.operator_address}"


@pytest.mark.parametrize("shown", [None, "stranger"])
def test_who_has_no_certificate_of_the_authority_gets_no_answer(site: Site, shown: str | None) -> None:
    bundle = None if shown is None else site.home.parent / shown
    with trusting(site, bundle) as client:
        for path in ("/health", "/v1/control/list-runs", "/v1/fleet/activate-node"):
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                client.post(devices_door(site) + path)


def test_an_enrolled_device_reaches_the_fleets_routes_and_no_others(site: Site) -> None:
    control, runtime = list_routes("/v1/control/"), list_routes("/v1/runtime/")
    assert {"/v1/control/start-run", "/v1/control/stop-run", "/v1/control/list-runs"} <= set(control)
    assert "/v1/runtime/acquire-task" in runtime
    ways_around = [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
    ]
    with trusting(site, site.home.parent / "kitchen") as client:
        for path in (*control, *runtime, "/docs", "/openapi.json", "/", *ways_around):
            assert client.post(devices_door(site) + path).status_code == 404, path
        assert client.get(devices_door(site) + "/health").status_code == 200
        for path in list_routes("/v1/fleet/"):  # which Flower opens to a node's key only
            assert client.post(devices_door(site) + path).status_code == 401, path


def test_control_answers_to_the_operators_token_alone(site: Site) -> None:
    token = (site.home / OPERATOR_TOKEN).read_text()
    wrong = ["", "Bearer", f"Bearer {token[:-1]}", f"Bearer {token}x", token, "Bearer \xe9"]
    with trusting(site) as client:
        for path in list_routes("/v1/control/"):
            for shown in wrong:
                answer = client.post(
                    operators_door(site) + path, headers={"authorization": shown.encode("latin-1")}
                )
                assert answer.status_code == 401, path
        for path in ("/docs", "/openapi.json", "/", "/v1/fleet/activate-node"):
            answer = client.post(operators_door(site) + path, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 404, path
    with pytest.raises(RunError, match=r"does not exist|not found"):
        Control(site).stop("1")  # asked, and answered


def test_the_runtimes_routes_are_guarded_by_flower_itself(site: Site) -> None:
    with trusting(site) as client:
        for path in list_routes("/v1/runtime/"):
            assert client.post(operators_door(site) + path).status_code in (401, 403, 422), path
        assert client.post(operators_door(site) + "/v1/runtime/acquire-task").status_code == 401


def test_secrets_are_their_owners(site: Site) -> None:
    for name in (OPERATOR_TOKEN, SECRET_FILE, "tls/server.key"):
        assert (site.home / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (site.home / "tls").iterdir()) == [
        "ca.crt",
        "fleet.json",
        "revoked.crl",
        "server.crt",
        "server.key",
    ]


def test_revoked_and_renewed_certificates_count_without_a_restart(site: Site) -> None:
    assert site.certificates is not None
    attic = issue_bundle(site.certificates, site.home.parent, "attic")

    def is_served(bundle: Path) -> bool:
        with trusting(site, bundle) as client:
            return client.get(devices_door(site) + "/health").status_code == 200

    assert is_served(attic)
    revoke_node(site.certificates, "attic")
    copy_certificates(site)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        is_served(attic)
    assert is_served(site.home.parent / "kitchen")
    renew_server(site.certificates)
    copy_certificates(site)
    for port in (site.port, site.operator_port):
        served = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
        assert served == (site.certificates / "server.crt").read_text()


def test_a_list_of_revoked_ones_that_comes_after_the_start_lets_nobody_in_unchecked(tmp_path: Path) -> None:
    authority = tmp_path / "certificates"
    init_authority(authority)
    attic = issue_bundle(authority, tmp_path, "attic")
    (authority / "revoked.crl").rename(tmp_path / "kept.crl")
    opened = make_site(tmp_path / "home", authority)
    with running_superlink(opened), trusting(opened, attic) as client:
        assert client.get(devices_door(opened) + "/health").status_code == 200
    with running_superlink(opened):
        (tmp_path / "kept.crl").rename(authority / "revoked.crl")
        revoke_node(authority, "attic")
        copy_certificates(opened)
        with trusting(opened, attic) as client, pytest.raises(httpx.TransportError):
            client.get(devices_door(opened) + "/health")


def test_a_home_that_had_certificates_can_do_without_them(site: Site, tmp_path: Path) -> None:
    assert site.certificates is not None
    before = make_site(tmp_path / "home", site.certificates)
    plain = make_site(before.home)
    assert (plain.home / "tls").is_dir()
    with running_superlink(plain), httpx.Client() as client:
        assert client.get(f"http://{plain.address}/health").status_code == 200


def test_a_folder_that_cannot_be_read_just_now_changes_nothing(tmp_path: Path) -> None:
    init_authority(tmp_path / "certificates")
    opened = make_site(tmp_path / "home", tmp_path / "certificates")
    before = {path.name: path.read_bytes() for path in (opened.home / "tls").iterdir()}
    (tmp_path / "certificates").rename(tmp_path / "unmounted")
    copy_certificates(opened)
    assert {path.name: path.read_bytes() for path in (opened.home / "tls").iterdir()} == before


def test_without_certificates_the_doors_stand_too(tmp_path: Path) -> None:
    plain = make_site(tmp_path / "home")
    with running_superlink(plain), httpx.Client(headers=PROTOBUF) as client:
        assert client.post(f"http://{plain.address}/v1/control/list-runs").status_code == 404
        assert client.post(f"http://{plain.operator_address}/v1/control/list-runs").status_code == 401
        assert client.post(f"http://{plain.operator_address}/v1/runtime/acquire-task").status_code == 401
        with pytest.raises(RunError, match=r"does not exist|not found"):
            Control(plain).stop("1")


def test_a_superlink_that_is_not_there_is_said(site: Site, tmp_path: Path) -> None:
    nobody = replace(make_site(tmp_path / "home"), certificates=None)
    with pytest.raises(RunError, match="the SuperLink does not answer"):
        Control(nobody).stop("1")
