"""`adapterkit drift`: whether the answers of an adapter are still those of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import AdapterkitError
from ..names import VERSION
from .client import DEFAULT_URL, KeyOption, UrlOption
from .options import JsonOption, StoreOption, complete_adapters, json_text

if TYPE_CHECKING:
    from ..tasks.answer_distribution import AnswerDistribution
    from ..tasks.drift import Drift

# As in the other commands, modules that need torch are imported inside it.

SECONDS = {"m": 60, "h": 3600, "d": 86_400}
"""Seconds of each unit of `--since`."""


def drift(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The adapter: name or name@version.",
            autocompletion=complete_adapters,
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="30m|24h|7d",
            help="How far back. A server keeps 24h, in steps of ten minutes, and that is its "
            "default; of a file, the rows with a later `time` (ISO 8601), or all if omitted.",
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", help="Compare this output of `predict`: .csv, .jsonl or .json; no server."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Compare with this output of `predict`, not with the training."
        ),
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="The --prefix given to `predict`.")] = "",
    store: StoreOption = Path("adapters"),
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare an adapter's answers with those of its training: labels, scores and abstentions.

    \b
    adapterkit drift acme/intent --since 24h
    adapterkit drift acme/intent --answers answers.jsonl
    adapterkit drift acme/intent --answers november.csv --reference october.csv

    Training counts the answers for the validation rows (else the test rows, else some training
    rows) in the adapter's card. The server counts those that it gives; the key needs the role
    publisher. psi is the population stability index, js the Jensen-Shannon distance. Drift is
    reported, and the exit code is 1, if psi is at least 0.1 and above what chance explains in 99
    of 100 cases; above 0.25 it is a shift.
    """
    from ..prediction.answer_files import AnswerFiles
    from ..tasks.answer_distribution import AnswerDistribution
    from ..tasks.drift import Drift

    if answers is None:
        served = _ask_server(name, since, url, key)
        observed, trained = AnswerDistribution.from_plain(served["observed"]), served["reference"]
        source = f"the last {since or '24h'}"
    else:
        files = AnswerFiles(name, store, prefix)
        observed = files.read(answers, None if since is None else _seconds(since))
        trained, source = files.trained, str(answers)
    if reference is not None:
        expected = AnswerFiles(name, store, prefix).read(reference)
        against = str(reference)
    else:
        if trained is None:
            raise AdapterkitError(
                f"{name}: its card has no distribution of answers, which training writes for "
                "labels, entities and spans; give --reference FILE, answers of `predict` of then"
            )
        expected, against = AnswerDistribution.from_plain(trained), f"{trained['split']} rows"
    for rows, where in ((observed.rows, source), (expected.rows, against)):
        if not rows:
            raise AdapterkitError(f"{name}: there are no answers in {where}")
    found = Drift.between(expected, observed)
    drifted = any(part.drifted for part in found.parts.values())
    if as_json:
        both = {"observed": observed.plain(), "reference": expected.plain()}
        typer.echo(json_text({"name": name, **both, "drift": found.plain(), "drifted": drifted}))
    else:
        typer.echo(_text(found, expected, observed))
        typer.echo(
            f"{observed.rows} answers of {source} beside {expected.rows} of {against}", err=True
        )
    if drifted:
        raise typer.Exit(1)


def _ask_server(name: str, since: str | None, url: str, key: str | None) -> dict[str, Any]:
    """What a server has counted, and what the training has.

    Raises:
        AdapterkitError: It keeps no answers for so long, or refuses the request.
    """
    from ..client.http import Client

    seconds = _seconds(since or "24h")
    if seconds > SECONDS["d"]:
        raise AdapterkitError(
            f"--since {since}: a server keeps 24h; for more, give --answers FILE with a `time`"
        )
    name, _, version = name.partition("@")
    if version and not VERSION.fullmatch(version):
        raise AdapterkitError(f"{name}@{version}: a server counts by number; give {name}@NUMBER")
    with Client(url, key) as client:
        return client.drift(name, seconds, int(version) if version else None)


def _seconds(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if unit not in SECONDS or not number.isdecimal() or not 0 < int(number) < 10_000:
        raise AdapterkitError(f"--since {text}: expected a time such as 30m, 24h or 7d")
    return int(number) * SECONDS[unit]


def _text(found: Drift, expected: AnswerDistribution, observed: AnswerDistribution) -> str:
    """The figures, and the share of each label, the largest change first."""
    from ..tasks.answer_distribution import with_same_labels
    from ..tasks.drift import OTHER
    from ..text_table import table

    figures = [
        [
            kind,
            f"{one.psi:.3f}",
            f"{one.limit:.3f}",
            f"{one.js_distance:.3f}",
            "drifted" if one.drifted else "",
        ]
        for kind, one in found.parts.items()
    ]
    shares = []
    one, two = with_same_labels(expected, observed, OTHER)
    for label in one:
        before, now = one[label] / sum(one.values()), two[label] / sum(two.values())
        shares.append((abs(now - before), [label, f"{before:.3f}", f"{now:.3f}"]))
    shares.sort(key=lambda share: -share[0])
    cells = [cell for _, cell in shares if float(cell[1]) or float(cell[2])]
    return "\n\n".join(
        [
            table(["", "psi", "by chance", "js", ""], figures),
            table(["label", "before", "now"], cells),
        ]
    )
