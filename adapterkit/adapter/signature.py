"""Signatures of adapter folders: `SHA256SUMS.sig` beside the checksums.

Signed are the name and the version under which the folder is used, and the whole content of
`SHA256SUMS`, which has the hash of every other file. A signed folder can therefore neither be
changed nor be moved to another name or version.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ..atomic import write_file
from ..errors import AdapterError, AdapterkitError
from ..names import check_name
from ..schema import build
from .checksums import SIGNATURE, checksum_errors, read_sums
from .json_file import read_json, to_json
from .signing_key import (
    public_text,
    read_base64,
    read_public_text,
    read_signing_key,
    require_cryptography,
)


@dataclass(frozen=True)
class Signature:
    """A signature of an adapter folder, as its file has it.

    Attributes:
        name: Name under which the folder may be used.
        version: Version under which it may be used.
        key: Public key of the signer.
        signature: Ed25519 signature of `signed_bytes`, in base64.
    """

    name: str
    version: int
    key: str
    signature: str

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The signature of an adapter folder; None if it is not signed.

        Raises:
            AdapterError: The file is garbled.
        """
        if not (folder / SIGNATURE).exists():
            return None
        try:
            signature: Self = build(cls, read_json(folder, SIGNATURE), "")
        except ValueError as error:
            raise AdapterError(f"{SIGNATURE}: {error}") from None
        return signature

    def is_valid(self, sums: bytes) -> bool:
        """Whether the owner of the key signed this name and version with these checksums.

        Args:
            sums: The content of `SHA256SUMS`.
        """
        require_cryptography()
        from cryptography.exceptions import InvalidSignature

        try:
            content = signed_bytes(self.name, self.version, sums)
            read_public_text(self.key).verify(read_base64(self.signature), content)
        except (InvalidSignature, ValueError):
            return False
        return True


def signed_bytes(name: str, version: int, sums: bytes) -> bytes:
    """What is signed: the format, the name, the version, then the checksums.

    Names have no line ends, so different folders never give the same bytes.

    Raises:
        AdapterkitError: The name is not valid.
    """
    head = f"adapterkit signature 1\nname: {check_name(name)}\nversion: {version}\n"
    return head.encode() + sums


def sign_folder(folder: Path, name: str, version: int, key_file: Path) -> Signature:
    """Signs an adapter folder; an earlier signature is replaced.

    Args:
        folder: The folder, with checksums.
        name: Name under which it is or will be published.
        version: Version under which it is or will be published.
        key_file: File of the private key.

    Raises:
        AdapterkitError: The folder does not match its checksums, the key cannot be used, or the
            signature cannot be written.
    """
    key = read_signing_key(key_file)
    errors = checksum_errors(folder)
    if errors:
        raise AdapterError(f"{folder}: not signed: {'; '.join(errors)}")
    sums = read_sums(folder)
    content = key.sign(signed_bytes(name, version, sums))
    text = base64.b64encode(content).decode()
    signature = Signature(name, version, public_text(key.public_key()), text)
    try:
        write_file(folder / SIGNATURE, to_json(asdict(signature)))
    except OSError as error:
        raise AdapterkitError(
            f"{folder / SIGNATURE}: cannot be written ({error.strerror})"
        ) from None
    return signature
