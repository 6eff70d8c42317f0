"""Keys of signatures: Ed25519 (RFC 8032), computed by the library `cryptography`.

A private key is a file in PEM format (PKCS #8), as OpenSSL reads and writes it. A public key is a
text, `ed25519:` and base64.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_file
from ..backbone.regular_file import check_regular_file
from ..errors import AdapterkitError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PREFIX = "ed25519:"
PUBLIC_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9+/]{{43}}=")

LARGEST_KEY_FILE = 2**14
"""The largest file of a private key, in bytes."""


def require_cryptography() -> None:
    """Refuses to go on without the optional library.

    Raises:
        AdapterkitError: It is not installed.
    """
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError:
        raise AdapterkitError(
            "signatures need the library cryptography: pip install 'adapterkit[sign]'"
        ) from None


def make_signing_key(path: Path) -> str:
    """Makes a private key in a new file that only its owner can read (mode 0600).

    Args:
        path: The file.

    Returns:
        The public key.

    Raises:
        AdapterkitError: The file exists, or cannot be written; or the library is not installed.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if path.exists():
        known = ""
        with suppress(AdapterkitError):
            known = f", with the public key {public_text(read_signing_key(path).public_key())}"
        raise AdapterkitError(f"{path}: is there already{known}; choose another file")
    key = Ed25519PrivateKey.generate()
    try:
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_file(path, content, is_secret=True)
    except OSError as error:
        raise AdapterkitError(f"{path}: cannot be written ({error.strerror})") from None
    return public_text(key.public_key())


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        AdapterkitError: It cannot be read, others can read it, or it is not an Ed25519 key without
            a password; or the library is not installed.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        check_regular_file(path, LARGEST_KEY_FILE, AdapterkitError)
        if hasattr(os, "geteuid") and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise AdapterkitError(f"{path}: others can read this private key; chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise AdapterkitError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise AdapterkitError(
            f"{path}: expected an Ed25519 private key in PEM format without a password, as "
            "`adapterkit signing-key` makes it"
        )
    return key


def public_text(key: Ed25519PublicKey) -> str:
    """A public key as a text."""
    return PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def read_public_text(text: str) -> Ed25519PublicKey:
    """The public key that a text stands for.

    Raises:
        ValueError: It is not one.
        AdapterkitError: The library is not installed.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not PUBLIC_KEY.fullmatch(text):
        raise ValueError(
            f"expected {PREFIX} and 44 letters of base64, as `adapterkit signing-key` prints, got "
            f"{text!r:.80}"
        )
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(PREFIX)))


def read_base64(text: str) -> bytes:
    """The bytes of a text in base64.

    Raises:
        ValueError: It is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from None
