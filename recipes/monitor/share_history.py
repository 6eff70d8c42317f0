"""What the history of a share explains: a control limit for counts that come window by window."""

from __future__ import annotations

from dataclasses import dataclass, field

from scipy.stats import betabinom


@dataclass
class ShareHistory:
    """An exponentially weighted history of a share, and the probability of what comes next.

    The share has a beta distribution, whose counts are discounted from window to window: the power
    steady model of Smith (A generalization of the Bayesian steady forecasting model, 1979). The
    count of the next window then has a beta-binomial distribution. A count whose upper tail
    probability is below a small limit is what control charts call out of control (Shewhart 1931);
    the tail is wide as long as the history is short, so no warm-up is needed.

    Attributes:
        half_life: Windows after which a count has half its weight.
        strength: The history counts as at most so many texts, because a share also changes from
            window to window without cause: 200 allow for a standard deviation of 3 points at 0.25.
        hits: Weighted number of texts that count, such as the negative ones.
        others: Weighted number of the other texts.
    """

    half_life: float = 24.0
    strength: float = 200.0
    hits: float = field(default=0.5)  # Jeffreys' prior
    others: float = field(default=0.5)

    @property
    def share(self) -> float:
        """The expected share."""
        return self.hits / (self.hits + self.others)

    def tail(self, hits: int, n: int) -> float:
        """The probability of at least so many hits among n texts."""
        scale = min(1.0, self.strength / (self.hits + self.others))
        return float(betabinom.sf(hits - 1, n, scale * self.hits, scale * self.others))

    def learn(self, hits: int, n: int, windows: int = 1) -> None:
        """Adds the counts of a window.

        Args:
            hits: Texts that count.
            n: All texts.
            windows: How many windows ago the last counts were added.
        """
        weight = 0.5 ** (windows / self.half_life)
        self.hits = max(0.5, weight * self.hits) + hits
        self.others = max(0.5, weight * self.others) + n - hits
