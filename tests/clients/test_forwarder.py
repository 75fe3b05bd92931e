"""The way from a SuperNode to its coordinator: what passes, and what does not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from flwr.common.serde import user_config_to_proto
from flwr.proto.fab_pb2 import Fab, GetFabResponse
from flwr.proto.run_pb2 import GetRunResponse, Run
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fedstill.clients.forwarder import GET_FAB, GET_RUN, AppGuard, forwarding
from fedstill.common.app_signature import APP_SIGNATURE, digest_app, is_signed, sign_digest
from fedstill.common.beside import served_beside
from fedstill.common.certificates import read_certificate
from fedstill.common.dialing import find_free_port
from fedstill.server.deployment.site import Site
from fedstill.server.deployment.superlink import serving_context
from fedstill.server.pki.authority import init_authority, open_authority, renew_node
from fedstill.server.pki.enrolment import add_node
from tests.superlinks import make_site, running_superlink

APP = b"an app"
PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    init_authority(folder)
    return folder


def certificate_of(authority: Path) -> x509.Certificate:
    return read_certificate(authority / "ca.crt")


def describe_run(signature: str, app: bytes = APP) -> bytes:
    config = user_config_to_proto({APP_SIGNATURE: signature} if signature else {})
    return GetRunResponse(
        run=Run(run_id=7, fab_hash=digest_app(app), override_config=config)
    ).SerializeToString()


def bring(app: bytes) -> bytes:
    return GetFabResponse(fab=Fab(hash_str=digest_app(APP), content=app)).SerializeToString()


def test_a_signed_app_passes_after_its_run_was_described(authority: Path) -> None:
    signature = sign_digest(open_authority(authority).key, digest_app(APP))
    guard = AppGuard(certificate_of(authority))
    assert guard.find_fault(GET_FAB, bring(APP)) is not None  # nobody said yet that it is signed
    assert guard.find_fault(GET_RUN, describe_run(signature)) is None
    assert guard.find_fault(GET_FAB, bring(APP)) is None
    assert guard.find_fault("/v1/fleet/pull-messages", b"whatever") is None


def test_an_app_that_the_authority_did_not_sign_does_not_pass(authority: Path, tmp_path: Path) -> None:
    init_authority(tmp_path)
    foreign = sign_digest(open_authority(tmp_path).key, digest_app(APP))
    of_another = sign_digest(open_authority(authority).key, digest_app(b"another"))
    guard = AppGuard(certificate_of(authority))
    for signature in ("", foreign, of_another, "no base64 at all", "AAAA"):
        assert "did not sign" in str(guard.find_fault(GET_RUN, describe_run(signature)))
        assert "not the one that was signed" in str(guard.find_fault(GET_FAB, bring(APP)))
    assert "not what was asked for" in str(guard.find_fault(GET_RUN, b"\xff\xff"))


def test_every_changed_byte_of_a_signed_app_is_seen(authority: Path) -> None:
    guard = AppGuard(certificate_of(authority))
    signature = sign_digest(open_authority(authority).key, digest_app(APP))
    assert guard.find_fault(GET_RUN, describe_run(signature)) is None
    for index in range(len(APP)):
        changed = APP[:index] + bytes([APP[index] ^ 1]) + APP[index + 1 :]
        assert guard.find_fault(GET_FAB, bring(changed)) is not None
    assert not is_signed("no digest", signature, authority=certificate_of(authority))


@pytest.fixture(scope="module")
def site(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    opened = make_site(tmp_path_factory.mktemp("home"), authority)
    add_node(authority, "kitchen", opened.home / "kitchen", superlink=opened.address)
    with running_superlink(opened):
        yield opened


def trusting(root: Path) -> httpx.Client:
    return httpx.Client(verify=ssl.create_default_context(cafile=str(root)), headers=PROTOBUF)


@pytest.mark.slow
def test_what_a_supernode_calls_is_passed_on_with_the_devices_certificate_and_nothing_else(
    site: Site,
) -> None:
    bundle = site.home / "kitchen"
    with forwarding(site.address, bundle, explain=lambda: None) as (address, root), trusting(root) as client:
        # Flower's own answer to a call that no node's key signs.
        assert client.post(f"https://{address}/v1/fleet/pull-messages").status_code == 401
        for path in ("/v1/control/list-runs", "/v1/fleet/../control/list-runs", "/health", "/"):
            assert client.post(f"https://{address}{path}").status_code == 404
        assert client.get(f"https://{address}/v1/fleet/pull-messages").status_code == 404


@pytest.mark.slow
def test_a_renewed_certificate_is_shown_without_a_restart(site: Site, authority: Path) -> None:
    bundle = site.home / "kitchen"
    with forwarding(site.address, bundle, explain=lambda: None) as (address, root), trusting(root) as client:
        key = (bundle / "node.key").read_bytes()
        init_authority(site.home / "other", force=True)
        add_node(site.home / "other", "kitchen", site.home / "foreign", force=True)
        for name in ("node.crt", "node.key"):
            (bundle / name).write_bytes((site.home / "foreign" / name).read_bytes())
        assert client.post(f"https://{address}/v1/fleet/pull-messages").status_code == 503
        (bundle / "node.key").write_bytes(key)
        (bundle / "node.crt").write_bytes(renew_node(authority, "kitchen")[0])
        assert client.post(f"https://{address}/v1/fleet/pull-messages").status_code == 401


def test_a_coordinator_that_is_not_there_is_said_once_a_minute(
    authority: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_node(authority, "attic", tmp_path / "attic")
    nobody = f"127.0.0.1:{find_free_port()}"
    with (
        forwarding(nobody, tmp_path / "attic", explain=lambda: "it is away") as (address, root),
        trusting(root) as client,
    ):
        for _ in range(3):
            assert client.post(f"https://{address}/v1/fleet/pull-messages").status_code == 503
    assert [record.message for record in caplog.records if record.name.startswith("fedstill")] == [
        "no way to the coordinator; Flower tries again. it is away"
    ]


@pytest.mark.parametrize("elsewhere", ["/v1/fleet/pull-object", "http://127.0.0.1:9/app"])
def test_a_coordinator_cannot_send_a_supernode_elsewhere(
    authority: Path, tmp_path: Path, elsewhere: str
) -> None:
    async def redirect(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=307, headers={"location": elsewhere})(scope, receive, send)

    add_node(authority, f"cellar-{len(elsewhere)}", tmp_path / "cellar")
    context = serving_context(authority, asks_for_certificate=True)
    settings = uvicorn.Config(
        redirect,
        port=0,
        lifespan="off",
        ws="none",
        loop="asyncio",
        ssl_context_factory=lambda _config, _default: context,
    )
    with (
        served_beside(settings) as port,
        forwarding(f"127.0.0.1:{port}", tmp_path / "cellar", explain=lambda: None) as (address, root),
        trusting(root) as client,
    ):
        for path in (GET_RUN, GET_FAB):
            answer = client.post(f"https://{address}{path}")
            assert answer.status_code == 502
            assert "location" not in answer.headers
