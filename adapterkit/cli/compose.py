"""`adapterkit compose`: one adapter of several, published in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..backbone.load_options import LoadOptions
from ..errors import AdapterkitError
from .options import BackboneOption, JsonOption, StoreOption, complete_adapters, json_text

# As in the other commands, modules that need torch are imported inside them.


def compose(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Names in the store, or folders.",
            autocompletion=complete_adapters,
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Its name in the store: tenant/name.")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="A factor for each, with commas, such as 1,-0.5; equal if omitted."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="ADAPTER",
            help="The one whose task and head to take; the average of equal tasks if omitted.",
        ),
    ] = None,
    on_top_of: Annotated[
        str | None,
        typer.Option(
            "--on-top-of",
            metavar="ADAPTER",
            help="The adapter to stand on, in place of the one that they were trained on.",
        ),
    ] = None,
    store: StoreOption = Path("adapters"),
    backbone: BackboneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish one adapter made of several of one method, without training.

    It adds exactly the weighted sum of what they add: an average, or task arithmetic with any
    weights. Methods whose adapters add what is linear in their weights, such as LoRA, have such a
    sum; others are refused. A single adapter of any method can be put on top of another one. The
    card names the parents.

    \b
    adapterkit compose acme/a acme/b --weights 0.5,0.5 --name acme/both
    adapterkit compose acme/names --on-top-of acme/spanish --name acme/nombres
    """
    from ..adapter.composition import compose as compose_adapters
    from ..adapter.folder import load_adapter
    from ..adapter.references import backbone_name, find_folder
    from ..adapter.store import Store
    from ..backbone.model import Backbone

    if head is not None and head not in adapters:
        raise AdapterkitError(f"--head: '{head}' is none of {', '.join(adapters)}")
    factors = None if weights is None else _numbers(weights)
    opened = Store(store)
    opened.check_target(name)
    named = backbone_name(adapters, opened, backbone)
    base = Backbone.load_with(named, LoadOptions(device="cpu"), prepared=False)
    loaded = {
        reference: load_adapter(find_folder(reference, opened), base, on_top_of=store)
        for reference in (*adapters, *([] if on_top_of is None else [on_top_of]))
    }
    composed = compose_adapters(
        [loaded[reference] for reference in adapters],
        base,
        name=name,
        weights=factors,
        head=None if head is None else loaded[head],
        on_top_of=None if on_top_of is None else loaded[on_top_of],
    )
    published = opened.publish(composed, base.geometry)
    if as_json:
        document = {"name": name, "folder": str(published), **composed.training["composed"]}
        typer.echo(json_text(document))
        return
    typer.echo(f"{published}: {composed!r}")


def _numbers(text: str) -> list[float]:
    """The numbers of an option, which commas separate.

    Raises:
        AdapterkitError: One is not a number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise AdapterkitError(
            f"--weights: expected numbers with commas, such as 0.5,0.5; got '{text}'"
        ) from None
