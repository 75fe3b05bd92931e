"""A label service over mutual TLS, and the nodes that are enrolled with it."""

from datetime import UTC, datetime, timedelta

import numpy as np

from fedstill.clients.labels import LabelCache, Transport, upload_array
from fedstill.server.labels import LabelService, LabelStore
from fedstill.server.labels.access import ACCESS_FILE, open_round
from fedstill.server.pki.authority import init_authority, issue_node
from fedstill.server.pki.enrolment import write_bundle


class Federation:
    """A run folder with a label service over mutual TLS, and nodes with bundles."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = folder / "certificates"
        init_authority(self.authority)
        self.store = LabelStore(folder / "run" / "labels")
        self.digest = self.store.publish_samples(np.arange(100))
        self.refused = []
        self.service = LabelService(
            self.store,
            uploads_dir=folder / "run" / "nodes",
            run_id="run-1",
            certificates_dir=self.authority,
            access_file=folder / "run" / ACCESS_FILE,
            on_refuse=self.refused.append,
        )

    @property
    def address(self):
        return self.service.address

    def enrol(self, name, *, clock=None, authority=None):
        bundle = self.folder / "bundles" / name
        secrets = issue_node(authority or self.authority, name, **({"clock": clock} if clock else {}))
        write_bundle(bundle, name, secrets.files)
        return bundle

    def open_round(self, number, *members):
        return open_round(self.folder / "run", "run-1", number, members)

    def fetch(self, bundle, *, num_attempts=2):
        # Each node has a cache of its own, so that every fetch goes over the wire.
        cache = LabelCache(
            self.folder / "caches" / (bundle.name if bundle else "plain"),
            num_attempts=num_attempts,
            backoff_seconds=0.02,
            transport=Transport(bundle),
        )
        try:
            return cache.fetch_array(self.address, self.digest, timeout_seconds=10)
        finally:
            cache.close()

    def upload(self, bundle, nonce, *, node_id, round_number=1, run_id="run-1"):
        return upload_array(
            self.address,
            np.arange(8, dtype=np.float32),
            run_id=run_id,
            round_number=round_number,
            node_id=node_id,
            nonce=nonce,
            transport=Transport(bundle),
            num_attempts=2,
            backoff_seconds=0.02,
        )


def ago(days):
    return lambda: datetime.now(UTC) - timedelta(days=days)
