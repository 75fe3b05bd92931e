"""The authority's word for an app: a device runs no other.

What is signed is the SHA-256 digest of Flower's bundle, by the key of `ca.crt`, which every device has.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

APP_SIGNATURE = "run.signature"
"""Key of a run's configuration that brings the signature to its devices."""
_APP = b"fedstill app\0"


def digest_app(bundle: bytes) -> str:
    """Gives the digest of an app by which Flower and the authority name it, hexadecimal."""
    return hashlib.sha256(bundle).hexdigest()


def sign_digest(key: ec.EllipticCurvePrivateKey, digest: str) -> str:
    """Signs an app for the devices of an authority.

    Args:
        key: The authority's.
        digest: Of the app, hexadecimal.

    Returns:
        The signature, base64.
    """
    return base64.b64encode(key.sign(_text(digest), ec.ECDSA(hashes.SHA256()))).decode()


def is_signed(digest: str, signature: str, *, authority: x509.Certificate) -> bool:
    """Says whether an authority signed an app.

    Args:
        digest: Of the app, hexadecimal.
        signature: What `sign_digest` gave; whatever else came is no signature.
        authority: Its certificate.
    """
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), _text(digest), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _text(digest: str) -> bytes:
    return _APP + bytes.fromhex(digest)
