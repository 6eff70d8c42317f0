"""Write a stream of messages to try the monitor on: days of noise, with or without a surge.

    python recipes/monitor/sample_stream.py --days 7 > week.jsonl
    python recipes/monitor/sample_stream.py --days 3 --surge delivery > surge.jsonl

Hours have more and fewer messages, by day and by night, and every message draws its topic and its
mood. A surge lasts four hours of the last day: its topic is on three times as many minds, and two
of three of its messages are negative. None of the texts is in the training rows.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

BEGIN = datetime(2025, 3, 3, tzinfo=UTC)
PER_HOUR = 60
"""Messages in an hour, on average."""

MOODS = {"negative": 0.2, "neutral": 0.45, "positive": 0.35}
SURGE_MOODS = {"negative": 0.67, "neutral": 0.23, "positive": 0.1}
SURGE_FACTOR = 3
SURGE_HOURS = range(10, 14)
"""Hours of the last day."""

TEXTS = {
    ("delivery", "negative"): (
        "My parcel is lost and the courier does not care.",
        "The box arrived broken and half empty, terrible delivery.",
        "Still no package after two weeks, I am furious.",
        "The driver left my order in the rain again, awful.",
    ),
    ("delivery", "neutral"): (
        "The parcel will be delivered on Tuesday.",
        "Can I change the delivery address of my package?",
        "The courier left a card with a tracking number.",
        "Shipping to Spain takes five days.",
    ),
    ("delivery", "positive"): (
        "The package came early and the driver was lovely.",
        "Great delivery, my parcel was here in one day.",
        "Excellent shipping, the box was packed perfectly.",
        "The courier was friendly and on time, thank you.",
    ),
    ("billing", "negative"): (
        "They charged my card twice, this is outrageous.",
        "The invoice is wrong again and I feel cheated.",
        "Still no refund after a month, a shameful rip-off.",
        "Hidden fees on my bill, I am so angry.",
    ),
    ("billing", "neutral"): (
        "The invoice for May is due on the tenth.",
        "Can I pay the bill by card?",
        "The refund goes to the account of the payment.",
        "The bill includes tax and the monthly fee.",
    ),
    ("billing", "positive"): (
        "My refund came the same day, excellent.",
        "Honest prices and a clear invoice, thank you.",
        "Great, the wrong charge was corrected at once.",
        "Payment is so easy here, I like that a lot.",
    ),
    ("app", "negative"): (
        "The app crashes at every login, terrible update.",
        "The new version of the app is slow and broken, horrible.",
        "The app deleted my basket again, what a mess.",
        "Search in the app never works, I am annoyed.",
    ),
    ("app", "neutral"): (
        "The app has a switch for notifications in the settings.",
        "Does the app work on a tablet?",
        "The login screen of the app asks for a code.",
        "The update of the app needs a newer phone.",
    ),
    ("app", "positive"): (
        "The app is fast and beautiful, I love it.",
        "Great update, the search in the app is excellent.",
        "The app works perfectly on my phone, well done.",
        "Login with the app is so easy, wonderful.",
    ),
    ("support", "negative"): (
        "The hotline kept me waiting for an hour, awful service.",
        "The support agent was rude and useless.",
        "Nobody answers my ticket, the worst support ever.",
        "The agent closed my ticket without help, I am furious.",
    ),
    ("support", "neutral"): (
        "The hotline is open until seven.",
        "Support asked for my customer number.",
        "An agent will call back tomorrow.",
        "Is there a chat with an adviser?",
    ),
    ("support", "positive"): (
        "The agent was so kind and helped at once, fantastic.",
        "Great support, my ticket was solved in an hour.",
        "The lady on the hotline was wonderful, thank you.",
        "Excellent service, the adviser called back as promised.",
    ),
}
TOPICS = tuple(dict.fromkeys(topic for topic, _ in TEXTS))


def stream(days: int, surge: str | None, seed: int) -> Iterator[tuple[datetime, str, str, str]]:
    """Yields time, topic, mood and text of each message, in the order of time.

    Args:
        days: Number of days from `BEGIN` on.
        surge: The topic that has a surge on the last day; None for noise alone.
        seed: Seed of all draws.
    """
    draws = random.Random(seed)
    for hour in range(24 * days):
        rate = PER_HOUR * (1 + 0.7 * math.sin(2 * math.pi * (hour % 24 - 9) / 24))
        n = max(0, round(draws.gauss(rate, math.sqrt(rate))))
        is_surge = surge is not None and hour - 24 * (days - 1) in SURGE_HOURS
        weights = [SURGE_FACTOR if is_surge and topic == surge else 1 for topic in TOPICS]
        for minute in sorted(draws.uniform(0, 60) for _ in range(n)):
            topic = draws.choices(TOPICS, weights)[0]
            moods = SURGE_MOODS if is_surge and topic == surge else MOODS
            mood = draws.choices([*moods], [*moods.values()])[0]
            time = BEGIN + timedelta(hours=hour, minutes=minute)
            yield time, topic, mood, draws.choice(TEXTS[topic, mood])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--surge", choices=TOPICS, help="the topic of a surge on the last day")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for time, _, _, text in stream(options.days, options.surge, options.seed):
        print(json.dumps({"time": time.isoformat(timespec="seconds"), "text": text}))


if __name__ == "__main__":
    main()
