"""`adapterkit keys`: API keys of a server."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import AdapterkitError

if TYPE_CHECKING:
    from ..serving.keys.key_file_editor import NewKey


def keys(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Tenant that has the key.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="Key file to which the key is added; made if it does not exist. If omitted, the "
            "lines for the file are printed.",
        ),
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option("--id", help="Name of the key in logs; a part of its hash if omitted."),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            help="user: ask the adapters of the tenant. publisher: also publish them and set "
            "aliases. admin: also delete them, and see metrics. user if omitted.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="Last day, in UTC, such as 2027-01-31; none if omitted."),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapters", help="Pattern of adapters that it may use; TENANT/* if omitted."
        ),
    ] = None,
    rows: Annotated[
        float | None, typer.Option("--rows-per-second", help="Quota; unlimited if omitted.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The same as --role admin.")] = False,
) -> None:
    """Create an API key. The key goes to standard error, once; its hash goes to the key file.

    \b
    adapterkit keys acme --file keys.yaml
    adapterkit keys acme --file keys.yaml --id nightly --role publisher --expires 2027-01-31
    """
    from ..names import check_tenant
    from ..schema import build
    from ..serving.keys.api_keys import hash_key, new_key
    from ..serving.keys.key_file import KeySection
    from ..serving.keys.key_file_editor import NewKey, add_to_file

    check_tenant(tenant)
    if admin and role not in (None, "admin"):
        raise AdapterkitError(f"--admin means --role admin, but --role is {role}; give one of them")
    key = new_key()
    values = {"key": hash_key(key), "role": "admin" if admin else role or "user"}
    settings: dict[str, Any] = {"adapters": adapters} if adapters else {}
    if rows is not None:
        settings["rows_per_second"] = rows
    try:
        section = build(KeySection, {**values, "expires": expires}, "the new key")
    except ValueError as error:
        raise AdapterkitError(str(error)) from None
    new = NewKey(tenant, section, key_id, settings)
    if file is None:
        _print_lines(new)
    else:
        add_to_file(file, new)
    typer.echo(f"The key of {tenant}, shown only once: {key}", err=True)


def _print_lines(new: NewKey) -> None:
    """Prints the lines of a new tenant.

    Raises:
        AdapterkitError: Standard output is appended to a key file, which would no longer be valid.
    """
    from ..serving.keys.key_file_editor import with_new_key

    lines = with_new_key("", new, "the new key")
    before = _output_so_far()
    if before and not before.endswith("\n"):
        lines = f"\n{lines}"
    if _key_file_error(before) is None and (error := _key_file_error(before + lines)):
        raise AdapterkitError(
            f"{error}; nothing was written; --file FILE adds the key in its place"
        )
    typer.echo(lines, nl=False)


def _key_file_error(text: str) -> str | None:
    """What is wrong with the content of a key file; None if it is valid."""
    from ..serving.keys.key_file import parse_keys

    try:
        parse_keys(text, "standard output")
    except AdapterkitError as error:
        return str(error)
    return None


def _output_so_far() -> str:
    """The content of the file that standard output is appended to; empty if it is not a file."""
    try:
        output = sys.stdout.fileno()
        status = os.fstat(output)
    except (OSError, ValueError):  # not a file of the system
        return ""
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return ""
    try:
        return Path(f"/dev/fd/{output}").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise AdapterkitError(
            "standard output is a file that cannot be checked; use --file FILE"
        ) from None
