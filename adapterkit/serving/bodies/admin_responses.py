"""The bodies of successful responses of the admin routes."""

from __future__ import annotations

from pydantic import Field

from .responses import Digest, ResponseBody, RolloutDescription


class VersionDigest(ResponseBody):
    """A version and the digest of its weights."""

    version: int
    digest: Digest | None


class NamedVersion(VersionDigest):
    """A version of an adapter."""

    name: str


class Aliases(ResponseBody):
    """The aliases of an adapter."""

    name: str
    aliases: dict[str, int] = Field(description="Version; of a rollout, its main version")
    rollouts: dict[str, RolloutDescription] = Field(description="Aliases with several versions")


class AdapterVersions(Aliases):
    """The versions of an adapter, and where it is loaded."""

    versions: list[VersionDigest]
    resident: dict[str, bool]


class Deletion(ResponseBody):
    """What was deleted."""

    name: str
    deleted: int | str


class Unloading(ResponseBody):
    """What was removed from memory."""

    name: str
    unloaded: int = Field(description="Number of versions")


class Verification(ResponseBody):
    """The differences between files and their checksums."""

    name: str
    faults: list[str]


class AnswerCounts(ResponseBody):
    """The distribution of an adapter's answers."""

    rows: int
    abstained: int = Field(description="Rows without a label, an entity or an answer")
    labels: dict[str, int] = Field(description="Rows by label")
    confidence: list[int] = Field(
        description="Rows by score: up to 0.1, 0.2, ... 0.9, 0.95, 0.99 and 1"
    )
    confidence_sum: float


class ReferenceCounts(AnswerCounts):
    """The distribution of its answers after training."""

    split: str = Field(description="The rows that they are for")


class DivergenceReport(ResponseBody):
    """How far observed counts are from those of the training."""

    psi: float = Field(description="Population stability index")
    limit: float = Field(description="What it exceeds by chance once in a hundred times")
    js_distance: float = Field(description="Jensen-Shannon distance, from 0 to 1")
    drifted: bool


class DriftReport(ResponseBody):
    """The answers of a version beside those of its training."""

    name: str
    version: int
    observed: AnswerCounts
    reference: ReferenceCounts | None
    drift: dict[str, DivergenceReport] | None = Field(
        description="By `labels` and `confidence`; null without answers or without a reference"
    )
