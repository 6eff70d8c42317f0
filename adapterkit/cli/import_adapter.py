"""`adapterkit import`: an adapter that PEFT or AdapterHub trained, as an adapter of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError
from .options import (
    BackboneOption,
    JsonOption,
    LabelsOption,
    ProblemOption,
    StoreOption,
    json_text,
    label_names,
)

# As in the other commands, modules that need torch are imported inside them.


def import_adapter(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="Adapter folder of PEFT or AdapterHub, or hf://user/repo."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Its name in the store: tenant/name.")],
    store: StoreOption = Path("adapters"),
    labels: LabelsOption = None,
    problem: ProblemOption = None,
    on_top_of: Annotated[
        str | None,
        typer.Option(
            "--on-top-of",
            metavar="NAME",
            help="The adapter below it in a Stack of AdapterHub, imported before.",
        ),
    ] = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an adapter that PEFT or AdapterHub's library trained, bound to its base model.

    It answers as it does there, or is refused: LoRA and its relatives that change weights alone
    (DoRA, AdaLoRA, VeRA, LoHa, LoKr, ...), prefix tuning, IA3, and AdapterHub's bottlenecks and
    unions, with or without a head. A union is published as a stack of adapters.
    """
    from ..adapter.card import CARD
    from ..adapter.folder import load_adapter
    from ..adapter.foreign_folder import load_foreign_adapter
    from ..adapter.foreign_publication import publish_foreign
    from ..adapter.peft_head import HeadFacts
    from ..adapter.references import backbone_name, find_folder
    from ..adapter.store import Store
    from ..backbone.model import Backbone

    opened = Store(store)
    opened.check_target(name)
    found = find_folder(folder, opened)
    if (found / CARD).is_file():
        raise AdapterkitError(
            f"{folder}: an adapter of adapterkit, whose {CARD} would be lost; `adapterkit compose "
            f"{folder} --name {name}` publishes it as it is"
        )
    base = Backbone.load_with(backbone_name([folder], opened, backbone), LoadOptions())
    below = None if on_top_of is None else load_adapter(find_folder(on_top_of, opened), base)
    facts = HeadFacts(label_names(labels), problem)
    adapter = load_foreign_adapter(found, base, facts, below)
    *below_folders, published = publish_foreign(adapter, name, opened, base)
    if as_json:
        typer.echo(json_text({"name": name, "folder": str(published), "task": adapter.task.type}))
        return
    for part_folder in below_folders:
        typer.echo(f"{part_folder}: below it")
    typer.echo(f"{published}: {adapter!r}")
