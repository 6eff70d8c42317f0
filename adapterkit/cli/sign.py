"""`adapterkit signing-key` and `adapterkit sign`: signatures of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import AdapterkitError
from .options import StoreOption, complete_adapters

# As in the other commands, modules that need torch are imported inside them.


def signing_key(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="New file of the private key (mode 0600).")
    ],
) -> None:
    """Create a key that signs adapters, and print its public key for trust files.

    \b
    adapterkit signing-key release.pem
    """
    from ..adapter.signing_key import make_signing_key

    typer.echo(make_signing_key(file))
    typer.echo(f"The private key is in {file}; keep it away from servers.", err=True)


def sign(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Name in the store, or an adapter folder that will be published.",
            autocompletion=complete_adapters,
        ),
    ],
    key: Annotated[Path, typer.Option("--key", help="File of the private key.")],
    store: StoreOption = Path("adapters"),
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name under which a folder will be published."),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", help="Version that it will have there.", min=1),
    ] = None,
) -> None:
    """Sign a version of an adapter: its files, its name and its number.

    A server with --trust accepts it under this name and version only. A folder that is published
    over HTTP is signed before, for the version that it will have.

    \b
    adapterkit sign acme/intent@3 --key release.pem
    adapterkit sign adapters/acme/intent/3 --key release.pem --name acme/intent --version 7
    """
    from ..adapter.peft_format import CONFIG
    from ..adapter.signature import sign_folder
    from ..adapter.store import Store

    path = Path(adapter)
    if (path / CONFIG).is_file():
        if name is None or version is None:
            raise AdapterkitError(
                f"{adapter}: give --name and --version under which this folder will be published"
            )
        folder = path
    else:
        if name is not None or version is not None:
            raise AdapterkitError(
                f"--name and --version are for folders; '{adapter}' is looked up in {store}"
            )
        opened = Store(store)
        opened.path(adapter)  # its error names the nearest adapter
        found = opened.find(adapter)
        folder, name, version = found.folder, found.name, found.number
    signature = sign_folder(folder, name, version, key)
    typer.echo(f"signed {name}@{version} by {signature.key}")
