"""Flower's control interface, asked from this process.

The `flwr` program does the same, at more than a second of CPU for each question.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto import control_pb2
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedstill.common.certificates import CA_CERTIFICATE
from fedstill.common.errors import RunError
from fedstill.server.deployment.flower_programs import Site


class Control:
    """Asks a SuperLink; one that does not answer, or refuses, raises `RunError` with what it said.

    Args:
        site: Where the SuperLink is; nothing is asked yet.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

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
        folder = self._site.certificates
        client = ControlHttpClient.from_server_address(
            self._site.address,
            insecure=folder is None,
            root_certificates=None if folder is None else (folder / CA_CERTIFICATE).read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            said = FlowerError.from_json(error.response.text)
            raise RunError(said.message if said else str(error)) from None
        except httpx.HTTPError as error:
            raise RunError(f"the SuperLink does not answer: {error}") from None
        finally:
            client.close()
