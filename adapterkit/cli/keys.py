"""`adapterkit keys`: API keys of a server."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def keys(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Tenant that has the key.")],
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapters", help="Pattern of adapters that it may use; TENANT/* if omitted."
        ),
    ] = None,
    rows: Annotated[
        float | None, typer.Option("--rows-per-second", help="Quota; unlimited if omitted.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May publish, alias and delete.")] = False,
) -> None:
    """Create an API key. The key goes to standard error, once; the lines for the key file go to
    standard output.

    \b
    adapterkit keys acme >> keys.yaml
    """
    from ..names import check_tenant
    from ..serving.api_keys import hash_key, new_key, parse_keys

    check_tenant(tenant)
    key = new_key()
    lines = [f"{json.dumps(tenant)}:", f"  key: {hash_key(key)}"]
    lines.append(f"  adapters: {json.dumps(adapters or [f'{tenant}/*'])}")
    if rows is not None:
        lines.append(f"  rows_per_second: {rows}")
    if admin:
        lines.append("  admin: true")
    parse_keys("\n".join(lines), "the new key")
    typer.echo("\n".join(lines))
    typer.echo(f"The key of {tenant}, shown only once: {key}", err=True)
