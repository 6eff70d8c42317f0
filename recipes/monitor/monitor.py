"""Watch what people say: topic and sentiment of a stream of texts, and an alert for a surge.

    adapterkit train recipes/monitor/*.yaml
    tail -f messages.jsonl | python recipes/monitor/monitor.py --window 1h
    python recipes/monitor/monitor.py --kafka localhost:9092/messages --webhook http://alerts:9000/

A message is a JSON object with a `text` and, if it was not written just now, its `time` in ISO
8601. Two adapters answer each text in one call. When a window of time ends, its counts are printed
as a line of JSON. An alert is sent if the negative share of a topic is higher than its history
explains (see share_history.py), and a second one when that is over.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from share_history import ShareHistory

from adapterkit import AdapterkitError, Client, Predictor

TOPIC, SENTIMENT = ADAPTERS = ("monitor/topic", "monitor/sentiment")
NEGATIVE = "negative"
BATCH = 64
"""Most messages that are answered in one call."""

LONGEST = 10_000
"""Characters after which a text is cut: the adapters read the beginning of a text alone."""

AHEAD = timedelta(minutes=5)
"""How far ahead of now the time of a message may be: a later one would end all earlier windows."""

NEVER = "0001-01-01T00:00:00Z"
"""The end of an alert that has not ended, as Alertmanager writes it."""

Ask = Callable[[list[tuple[str, str]]], list[dict[str, Any]]]
"""Answers pairs of adapter and text."""


@dataclass(frozen=True)
class Message:
    """A text and the time that it is of."""

    text: str
    time: datetime


def parse(line: str | bytes) -> Message | None:
    """The message of a line of JSON; None, and a line on standard error, if it is none."""
    try:
        content = json.loads(line)
        text, given = content["text"], content.get("time")
        time = datetime.now(UTC) if given is None else datetime.fromisoformat(given)
        if not isinstance(text, str) or not text.strip():
            raise ValueError("text: expected some words")
        text.encode()  # half of a surrogate pair is no text
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        if time > datetime.now(UTC) + AHEAD:
            raise ValueError("time: is in the future")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        print(f"skipped: {error!r} in {line!r:.100}", file=sys.stderr)
        return None
    return Message(text[:LONGEST], time)


def read_lines(lines: Iterable[bytes]) -> Iterator[list[Message]]:
    """Messages of a stream of lines: as many at a time as have arrived, at most `BATCH`."""
    waiting: queue.Queue[bytes | None] = queue.Queue(4 * BATCH)

    def fill() -> None:
        for line in lines:
            if line.strip():
                waiting.put(line)
        waiting.put(None)

    threading.Thread(target=fill, daemon=True).start()
    line: bytes | None = b""
    while line is not None:
        batch = [line := waiting.get()]
        while line is not None and len(batch) < BATCH and not waiting.empty():
            batch.append(line := waiting.get())
        yield [one for text in batch if text is not None and (one := parse(text)) is not None]


def read_kafka(address: str) -> Iterator[list[Message]]:
    """Messages of a Kafka topic, from those that come now on.

    Args:
        address: `host:port/topic`.

    Raises:
        AdapterkitError: The client is not installed, or the topic cannot be read.
    """
    try:
        from confluent_kafka import Consumer
    except ImportError:
        raise AdapterkitError("--kafka needs Kafka's client: pip install confluent-kafka") from None
    servers, slash, topic = address.rpartition("/")
    if not slash or not topic:
        raise AdapterkitError(f"--kafka {address}: expected host:port/topic")
    settings = {"bootstrap.servers": servers, "group.id": "adapterkit-monitor"}
    consumer = Consumer({**settings, "auto.offset.reset": "latest"})
    consumer.subscribe([topic])
    try:
        while True:
            found = consumer.consume(BATCH, timeout=1.0)
            for record in found:
                if record.error() is not None:
                    raise AdapterkitError(f"--kafka {address}: {record.error()}")
            yield [one for record in found if (one := parse(record.value())) is not None]
    finally:
        consumer.close()


@dataclass
class Alert:
    """A topic whose negative share is higher than its history explains.

    Attributes:
        topic: The topic.
        began: Begin of the first window.
        summary: What was counted.
    """

    topic: str
    began: datetime
    summary: str

    def payload(self, ended: datetime | None = None) -> dict[str, Any]:
        """The body of a webhook, version 4 of Alertmanager's
        (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config).

        Args:
            ended: When it ended; None if it has not.
        """
        status = "firing" if ended is None else "resolved"
        labels = {"alertname": "NegativeSurge", "topic": self.topic, "severity": "warning"}
        annotations = {"summary": self.summary}
        alert = {
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": self.began.isoformat(),
            "endsAt": NEVER if ended is None else ended.isoformat(),
            "generatorURL": "",
            "fingerprint": f"{self.topic}-negative",
        }
        return {
            "version": "4",
            "groupKey": f'{{}}:{{alertname="NegativeSurge", topic="{self.topic}"}}',
            "truncatedAlerts": 0,
            "status": status,
            "receiver": "adapterkit-monitor",
            "groupLabels": {"alertname": "NegativeSurge"},
            "commonLabels": labels,
            "commonAnnotations": annotations,
            "externalURL": "",
            "alerts": [alert],
        }


@dataclass
class Monitor:
    """Counts in windows of time, and the alerts of each window that ends.

    Attributes:
        window: Length of a window.
        limit: Probability below which a count is not explained by the history.
        half_life: Windows after which a count of the history has half its weight.
        late: Number of messages that came after their window had ended; they are not counted.
    """

    window: timedelta
    limit: float = 1e-5
    half_life: float = 24.0
    late: int = 0
    _open: int = 0
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _histories: dict[str, ShareHistory] = field(default_factory=dict)
    _learned: dict[str, int] = field(default_factory=dict)
    _alerts: dict[str, Alert] = field(default_factory=dict)

    def add(self, time: datetime, topic: str, sentiment: str) -> Iterator[dict[str, Any]]:
        """Counts a message; yields the record of the window that ends with it, if one does."""
        number = int(time.timestamp() // self.window.total_seconds())
        if number < self._open:
            self.late += 1
            return
        if self._counts and number > self._open:
            yield self.close()
        self._open = number
        self._counts[topic, sentiment] += 1

    def close(self) -> dict[str, Any]:
        """Ends the open window; returns its counts, and the webhooks to send as `alerts`."""
        began = datetime.fromtimestamp(self._open * self.window.total_seconds(), UTC)
        counts: dict[str, dict[str, int]] = {}
        for (topic, sentiment), n in sorted(self._counts.items()):
            counts.setdefault(topic, {})[sentiment] = n
        judged = sorted(counts.keys() | self._alerts.keys())  # an alert ends without messages, too
        alerts = [
            one for topic in judged for one in self._judge(topic, counts.get(topic, {}), began)
        ]
        self._counts.clear()
        return {"time": began.isoformat(), "counts": counts, "late": self.late, "alerts": alerts}

    def _judge(
        self, topic: str, counts: dict[str, int], began: datetime
    ) -> Iterator[dict[str, Any]]:
        number = int(began.timestamp() // self.window.total_seconds())
        history = self._histories.setdefault(topic, ShareHistory(self.half_life))
        negative, n = counts.get(NEGATIVE, 0), sum(counts.values())
        tail, expected = history.tail(negative, n), history.share
        if tail < self.limit and topic not in self._alerts:
            summary = (
                f"{negative} of {n} messages about {topic} are negative; its history explains "
                f"{expected:.0%} (probability {tail:.1e})"
            )
            self._alerts[topic] = Alert(topic, began, summary)
            yield self._alerts[topic].payload()
        elif tail >= self.limit and topic in self._alerts:
            yield self._alerts.pop(topic).payload(ended=began)
        history.learn(negative, n, number - self._learned.get(topic, number - 1))
        self._learned[topic] = number


def watch(batches: Iterable[list[Message]], ask: Ask, monitor: Monitor) -> Iterator[dict[str, Any]]:
    """Yields the record of each window of a stream, the last one when the stream ends."""
    counted = False
    for batch in filter(None, batches):
        answers = iter(ask([(name, one.text) for one in batch for name in ADAPTERS]))
        for message, topic, sentiment in zip(batch, answers, answers, strict=True):
            counted = True
            yield from monitor.add(message.time, topic["label"], sentiment["label"])
    if counted:
        yield monitor.close()


def send(url: str, payload: dict[str, Any]) -> None:
    """Sends an alert; a receiver that does not take it is named on standard error."""
    try:
        httpx2.post(url, json=payload, timeout=10).raise_for_status()
    except httpx2.HTTPError as error:
        print(f"alert not sent: {url}: {error}", file=sys.stderr)


def duration(text: str) -> timedelta:
    """A length of time such as 15m, 1h or 1d."""
    units = {"m": "minutes", "h": "hours", "d": "days"}
    if text[-1:] not in units or not text[:-1].isdecimal() or int(text[:-1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 15m, 1h or 1d")
    return timedelta(**{units[text[-1]]: int(text[:-1])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kafka", metavar="HOST:PORT/TOPIC", help="standard input if omitted")
    parser.add_argument("--window", type=duration, default="1h", help="15m, 1h (default) or 1d")
    parser.add_argument("--webhook", metavar="URL", help="receives alerts; printed if omitted")
    parser.add_argument("--limit", type=float, default=1e-5, help="probability of an alert")
    parser.add_argument("--half-life", type=float, default=24.0, help="of the history, in windows")
    parser.add_argument("--store", type=Path, default=Path("adapters"))
    parser.add_argument("--url", help="ask this server, and load no model here")
    options = parser.parse_args()
    batches = read_kafka(options.kafka) if options.kafka else read_lines(sys.stdin.buffer)
    predictor: Any = None if options.url else Predictor.open(ADAPTERS, options.store)
    ask: Ask = Client(options.url).ask if options.url else predictor
    monitor = Monitor(options.window, options.limit, options.half_life)
    for record in watch(batches, ask, monitor):
        print(json.dumps(record), flush=True)
        for payload in record["alerts"]:
            print(payload["status"], payload["commonAnnotations"]["summary"], file=sys.stderr)
            if options.webhook:
                send(options.webhook, payload)


if __name__ == "__main__":
    try:
        main()
    except AdapterkitError as error:
        sys.exit(f"Error: {error}")
