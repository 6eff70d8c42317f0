"""`adapterkit client ...`: ask and manage a running server from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import AdapterkitError
from .group import CommandGroup
from .options import JsonOption, LabelsOption, ProblemOption, json_text, label_names

if TYPE_CHECKING:
    from ..client.http import Client

# As in the other commands, modules that take long to import are imported inside them.

app = typer.Typer(
    cls=CommandGroup,
    name="client",
    help="Ask and manage a server that `adapterkit serve` runs, here or on another machine.",
    rich_markup_mode=None,
)

UrlOption = Annotated[
    str, typer.Option("--url", envvar="ADAPTERKIT_URL", help="URL of the server.")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", envvar="ADAPTERKIT_KEY", help="API key, if the server has keys."),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The adapter's name.")]

AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="stable, or another word.")]

DEFAULT_URL = "http://127.0.0.1:8080"


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def predict(
    adapter: Annotated[
        str,
        typer.Argument(metavar="ADAPTER", help="name, name@version, name@alias or base."),
    ],
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXT", help="Texts, or JSON objects with a value for each role."),
    ],
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer texts through one adapter of the server.

    \b
    adapterkit client predict acme/intent "I lost my card" "I moved house"
    """
    from ..data.requests import parse_text
    from ..prediction.answers import answer_row, answers_table

    inputs = [parse_text(text) for text in texts]
    with _client(url, key) as client:
        answers = client.ask([(adapter, text) for text in inputs], one_line=not as_json)
    if as_json:
        pairs = zip(inputs, answers, strict=True)
        typer.echo(json_text([answer_row(text, answer) for text, answer in pairs]))
        return
    lines = [(answer["one_line"]["text"], answer["one_line"]["score"]) for answer in answers]
    typer.echo(answers_table([answer["adapter"] for answer in answers], inputs, lines))


@app.command()
def models(
    url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List the adapters that the key may use, with method, task, size and scores."""
    from ..text_table import table

    with _client(url, key) as client:
        found = list(client.models())
    if as_json:
        typer.echo(json_text(found))
        return
    header = ["name", "version", "task", "method", "backbone", "kB", "scores"]
    typer.echo(table(header, [_model_cells(model) for model in found]))


@app.command()
def info(url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show the server's backbone, limits and version."""
    with _client(url, key) as client:
        found = client.info()
    plain = {name: value for name, value in found.items() if not isinstance(value, Mapping)}
    lines = [f"{name:22} {value}" for name, value in plain.items()]
    typer.echo(json_text(found) if as_json else "\n".join(lines))


@app.command()
def publish(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter folder.")],
    labels: LabelsOption = None,
    problem: ProblemOption = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="The server's name for the base model of a PEFT folder."),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an adapter folder as the next version of a name; the server uses it at once.

    A folder of PEFT becomes an adapter of the backbone that it names; --labels, --problem and
    --backbone are for such folders alone.

    \b
    adapterkit client publish acme/intent adapters/acme/intent/2
    """
    names = label_names(labels)
    with _client(url, key) as client:
        published = client.publish(name, folder, labels=names, problem=problem, backbone=backbone)
    _print_published(published, as_json)


@app.command()
def alias(
    name: NameArgument,
    alias: AliasArgument,
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", help="Version that it points at.", min=1),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a version, or remove it.

    \b
    adapterkit client alias acme/intent stable 2
    adapterkit client predict acme/intent@stable "I lost my card"
    """
    if (version is None) != remove:
        raise AdapterkitError("give either the VERSION that the alias points at, or --remove")
    with _client(url, key) as client:
        aliases = client.alias(name, alias, version)
    lines = [f"{name}@{word} is version {number}" for word, number in aliases.items()]
    typer.echo(json_text({"name": name, "aliases": aliases}) if as_json else "\n".join(lines))


@app.command("rollout")
def roll_out(
    name: NameArgument,
    alias: AliasArgument,
    weights: Annotated[
        list[str],
        typer.Argument(metavar="VERSION=WEIGHT", help="Part of the requests: 3=90 4=10."),
    ],
    shadow: Annotated[
        int | None,
        typer.Option("--shadow", help="Version whose answers are only compared, not sent.", min=1),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="Compared rows after which the rollout ends by itself.", min=1),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option(
            "--agreement",
            help="Least share of equal answers with which the shadow is promoted then; with "
            "fewer, the rollout ends at its main version.",
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Divide the requests to an alias among versions, and compare a shadow.

    The same version answers a session (header x-session-id), or else an API key, each time. End the
    rollout with `promote` or `rollback --alias`.

    \b
    adapterkit client rollout acme/intent stable 3=90 4=10
    adapterkit client rollout acme/intent stable 3=1 --shadow 4 --rows 1000 --agreement 0.98
    """
    if (rows is None) != (agreement is None):
        raise AdapterkitError("give both --rows and --agreement, or neither")
    rule = None if rows is None or agreement is None else {"rows": rows, "agreement": agreement}
    parsed = dict(map(_parse_weight, weights))
    if len(parsed) < len(weights):
        raise AdapterkitError(f"{' '.join(weights)}: a version is given twice")
    with _client(url, key) as client:
        rollouts = client.roll_out(name, alias, parsed, shadow, rule)
    lines = [f"{name}@{word} is {_rollout_text(one)}" for word, one in rollouts.items()]
    typer.echo(json_text({"name": name, "rollouts": rollouts}) if as_json else "\n".join(lines))


@app.command()
def promote(
    name: NameArgument,
    alias: AliasArgument,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="[VERSION]", help="If omitted, the one beside the main version.", min=1
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a rollout: from now on the alias means one of its versions alone."""
    with _client(url, key) as client:
        _print_published(client.promote(name, alias, version), as_json)


@app.command("rollback")
def roll_back(
    name: NameArgument,
    alias: Annotated[
        str,
        typer.Option("--alias", help="End the rollout of this alias at its main version."),
    ] = "latest",
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the version before the latest one the latest again, or end a rollout, at once."""
    with _client(url, key) as client:
        _print_published(client.roll_back(name, alias), as_json)


@app.command()
def delete(
    name: NameArgument,
    version: Annotated[
        int | None, typer.Option("--version", help="The version to delete.", min=1)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all versions.")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a version of an adapter, or all of them."""
    if (version is None) != everything:
        raise AdapterkitError("give either --version NUMBER, or --all for all versions")
    with _client(url, key) as client:
        client.delete(name, version)
    deleted = "all versions" if version is None else f"version {version}"
    typer.echo(
        json_text({"name": name, "deleted": version}) if as_json else f"deleted {name}, {deleted}"
    )


def _parse_weight(text: str) -> tuple[int, int]:
    version, _, weight = text.partition("=")
    if not (version.isdecimal() and weight.isdecimal()):
        raise AdapterkitError(f"{text}: expected a version and its weight, such as 3=90")
    return int(version), int(weight)


def _rollout_text(rollout: Mapping[str, Any]) -> str:
    total = sum(rollout["weights"].values())
    parts = [
        f"version {version} for {100 * weight / total:.4g} %"
        for version, weight in rollout["weights"].items()
    ]
    shadow = rollout["shadow"]
    return ", ".join(parts) + ("" if shadow is None else f", with version {shadow} as a shadow")


def _client(url: str, key: str | None) -> Client:
    from ..client.http import Client

    return Client(url, key)


def _print_published(published: Mapping[str, Any], as_json: bool) -> None:
    """Prints the version that is the latest now."""
    line = f"{published['name']} is version {published['version']} ({published['digest'][:19]})"
    typer.echo(json_text(published) if as_json else line)


def _model_cells(model: Mapping[str, Any]) -> list[str]:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in model.get("scores", {}).items())
    size = f"{model['bytes'] / 1000:,.0f}" if "bytes" in model else ""
    columns = [str(model.get(key) or "") for key in ("version", "task", "method", "parent")]
    return [model["id"], *columns, size, scores]
