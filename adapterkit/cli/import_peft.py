"""`adapterkit import`: an adapter that PEFT trained, as an adapter of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from .options import (
    BackboneOption,
    JsonOption,
    LabelsOption,
    ProblemOption,
    StoreOption,
    json_text,
)

# As in the other commands, modules that need torch are imported inside them.


def import_peft(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Adapter folder of PEFT, or hf://user/repo.")
    ],
    name: Annotated[str, typer.Option("--name", help="Its name in the store: tenant/name.")],
    store: StoreOption = Path("adapters"),
    labels: LabelsOption = None,
    problem: ProblemOption = None,
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an adapter that PEFT trained, bound to its base model.

    It answers as in PEFT, or is refused: LoRA and its relatives that change weights alone (DoRA,
    AdaLoRA, VeRA, LoHa, LoKr, ...), and prefix tuning, with or without a head.
    """
    from dataclasses import replace

    from ..adapter.folder import load_peft_adapter
    from ..adapter.peft_import import HeadFacts
    from ..adapter.store import Store, backbone_name, find_folder
    from ..backbone.model import Backbone

    opened = Store(store)
    opened.check_target(name)
    found = find_folder(folder, opened)
    base = Backbone.load_with(backbone_name([folder], opened, backbone), LoadOptions())
    facts = HeadFacts(tuple(labels.split(",")) if labels is not None else None, problem)
    adapter = replace(
        load_peft_adapter(found, base, facts),
        name=name,
        backbone=base.name,
        fingerprint=base.fingerprint,
    )
    published = opened.publish(adapter, base.geometry)
    if as_json:
        typer.echo(json_text({"name": name, "folder": str(published), "task": adapter.task.type}))
        return
    typer.echo(f"{published}: {adapter!r}")
