"""Flower's control interface, asked from this process through the operator's door.

The `flwr` program has no way to show the operator's token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import user_config_to_proto
from flwr.proto import control_pb2
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedstill.common.app_signature import digest_app
from fedstill.common.certificates import CA_CERTIFICATE
from fedstill.common.config import Scalar
from fedstill.common.errors import RunError
from fedstill.server.deployment.site import OPERATOR_TOKEN, Site


class UnreachableError(RunError):
    """The SuperLink does not answer."""


@dataclass(frozen=True)
class _ShowToken:
    """Shows the operator's token with each question."""

    token: str

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = f"Bearer {self.token}"
        return call_next(context)


class Control:
    """Asks a SuperLink; one that does not answer, or refuses, raises `RunError` with what it said.

    Args:
        site: Where the SuperLink is, and the operator's token; nothing is asked yet.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def start(self, bundle: bytes, settings: Mapping[str, Scalar]) -> str:
        """Hands an app over to be run with these settings and returns Flower's id of the run."""
        request = control_pb2.StartRunRequest(
            fab=Fab(hash_str=digest_app(bundle), content=bundle),
            override_config=user_config_to_proto(dict(settings)),
        )
        with self._open() as client:
            answer = client.StartRun(request)
        if not answer.HasField("run_id"):
            raise RunError("the SuperLink did not start the run; its log says why")
        return str(answer.run_id)

    def register(self, public_key: str, *, name: str) -> str:
        """Lets a SuperNode come and returns Flower's id of it; the key is in OpenSSH's form."""
        key = load_ssh_public_key(public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)  # as the authority makes them
        request = control_pb2.RegisterNodeRequest(public_key=public_key_to_bytes(key), name=name)
        with self._open() as client:
            return str(client.RegisterNode(request).node_id)

    def unregister(self, flower_id: str) -> None:
        """Lets a SuperNode come no more."""
        with self._open() as client:
            client.UnregisterNode(control_pb2.UnregisterNodeRequest(node_id=int(flower_id)))

    def read_status(self, run_id: str) -> tuple[str, str]:
        """Reads how a run is, as "running" or "finished:failed", and why."""
        with self._open() as client:
            runs = client.ListRuns(control_pb2.ListRunsRequest(run_id=int(run_id))).run_dict
        status = runs[int(run_id)].status
        return f"{status.status}:{status.sub_status}".rstrip(":"), status.details

    def stop(self, run_id: str) -> None:
        """Ends a run, whatever its process does."""
        with self._open() as client:
            client.StopRun(control_pb2.StopRunRequest(run_id=int(run_id)))

    @contextmanager
    def _open(self) -> Iterator[ControlHttpClient]:
        # One connection per question: a SuperLink that is asked to end waits for those that stay open.
        folder = self._site.tls
        token = (self._site.home / OPERATOR_TOKEN).read_text(encoding="utf-8")
        client = ControlHttpClient.from_server_address(
            self._site.operator_address,
            insecure=folder is None,
            root_certificates=None if folder is None else (folder / CA_CERTIFICATE).read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _ShowToken(token)],
        )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            said = FlowerError.from_json(error.response.text)
            raise RunError(said.message if said else str(error)) from None
        except httpx.HTTPError as error:
            raise UnreachableError(f"the SuperLink does not answer: {error}") from None
        finally:
            client.close()
