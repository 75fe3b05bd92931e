"""Apps that an authority released to its devices: signed where its key is, found where a coordinator runs.

<certificates>/releases.json   signatures by the apps' digests
"""

from __future__ import annotations

import json
from pathlib import Path

from fedstill.common.app_signature import digest_app, is_signed, sign_digest
from fedstill.common.certificates import CA_CERTIFICATE, read_certificate
from fedstill.common.errors import UsageError
from fedstill.common.files import write_text_atomically
from fedstill.server.pki.authority import CA_KEY, hold_authority, open_authority

RELEASES = "releases.json"


def release_app(folder: Path, bundle: bytes) -> str:
    """Signs an app and remembers the signature in the authority's folder.

    Args:
        folder: The authority's folder, with its key.
        bundle: Flower's bundle of the app.

    Returns:
        The app's digest, hexadecimal.

    Raises:
        UsageError: No authority, or its key is not there.
    """
    digest = digest_app(bundle)
    with hold_authority(folder):
        signature = sign_digest(open_authority(folder).key, digest)
        released = _read(folder) | {digest: signature}
        write_text_atomically(folder / RELEASES, json.dumps(released, indent=1, sort_keys=True) + "\n")
    return digest


def find_signature(folder: Path, bundle: bytes) -> str | None:
    """Finds the authority's signature of an app: one that it left, or a new one where its key is at hand.

    Args:
        folder: The authority's folder, or what a coordinator has of it.
        bundle: Flower's bundle of the app.

    Returns:
        The signature; None where there is neither a valid one nor the key.

    Raises:
        UsageError: A file of the folder is damaged.
    """
    digest = digest_app(bundle)
    authority = read_certificate(folder / CA_CERTIFICATE)
    signature = _read(folder).get(digest, "")
    if is_signed(digest, signature, authority=authority):
        return signature
    if not (folder / CA_KEY).is_file():
        return None
    return sign_digest(open_authority(folder).key, digest)


def _read(folder: Path) -> dict[str, str]:
    path = folder / RELEASES
    try:
        released = json.loads(path.read_bytes())
        if not isinstance(released, dict):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise UsageError(
            f"{path} is damaged: expected signatures by digests; delete it and release again"
        ) from None
    return {str(digest): str(signature) for digest, signature in released.items()}
