"""`adapterkit convert`: pickled weights of an adapter folder as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOption, json_text

# As in the other commands, modules that need torch are imported inside them.


def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Adapter folder with a .bin file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="New folder for the result; beside the .bin if omitted."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the pickled weights (.bin) of an adapter folder as safetensors.

    PEFT and AdapterHub wrote .bin files, which can hold programs. No other command opens one. This
    one loads the tensors alone and refuses a file that holds anything else.

    \b
    adapterkit convert their-adapter
    adapterkit import their-adapter --name acme/intent
    """
    from ..adapter.pickled_weights import convert_folder

    written = convert_folder(folder, output)
    if as_json:
        typer.echo(json_text({"files": [str(path) for path in written]}))
        return
    for path in written:
        typer.echo(path)
