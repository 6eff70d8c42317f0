"""The bodies of successful responses, for the description of the routes.

Routes build their answers as plain values, which are not checked again here: a test compares real
answers with these descriptions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MISSING: Any = None
"""Default of a key that may be missing."""

Digest = str
Vector = list[float]


class ResponseBody(BaseModel):
    """A response with these keys alone."""

    model_config = ConfigDict(extra="forbid")


# Answers to texts


class OneLine(ResponseBody):
    """A summary of an answer."""

    text: str
    score: float | None


class AdapterAnswer(BaseModel):
    """The answer of one adapter, with all values of its task."""

    adapter_id: str
    version: int = Field(MISSING, description="Missing for the plain backbone")
    truncated: bool = Field(MISSING, description="Whether only a part of the text was used")
    one_line: OneLine = Field(MISSING, description="If it was requested")


Values = dict[str, Any]
PipelineAnswer = Values | list[Values] | list[list[Values]]
"""An answer as the pipeline of Hugging Face for its task gives it: labels with scores, entities,
words for a mask (a list for each of several masks), a span, a number."""

PredictResponse = list[AdapterAnswer] | PipelineAnswer | list[PipelineAnswer]


class EmbeddingItem(ResponseBody):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: Vector | str = Field(description="Numbers, or little-endian float32 in base64")


class TokenUsage(ResponseBody):
    """Number of tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(ResponseBody):
    """Vectors in the format of OpenAI."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: TokenUsage


class Rank(ResponseBody):
    """A text by its similarity to the query."""

    index: int = Field(description="Place in `texts`")
    score: float
    text: str = Field(MISSING, description="If it was requested")


class TokenItem(ResponseBody):
    """One token of a text."""

    id: int
    text: str = Field(description="Its characters in the text, or the name of a special token")
    special: bool = Field(description="Whether the tokenizer added it to the text")
    start: int | None = Field(description="First character in the text")
    stop: int | None = Field(description="Past-the-last character in the text")


# Models


class BackboneName(ResponseBody):
    """The backbone of an adapter."""

    name: str
    fingerprint: str | None
    loaded: bool = Field(description="Whether this server computes with it")


class BackboneDescription(ResponseBody):
    """The plain backbone."""

    id: str
    object: Literal["model"]
    owned_by: str
    parent: str | None
    backbone: BackboneName
    reads: dict[str, str] | None = Field(description="Required inputs: kind by role")
    may_read: dict[str, str] | None = Field(description="Optional inputs: kind by role")
    document: str | None = Field(description="Role of the text that positions refer to")


class AdapterDescription(BackboneDescription):
    """The latest version of an adapter."""

    version: int
    digest: Digest | None
    task: str
    main_metric: str | None
    method: str
    members: int
    labels: list[str] | None
    scores: dict[str, float]
    score_split: str | None = Field(description="The rows that the scores were computed on")
    score_rows: int | None = Field(description="Their number")
    bytes: int


class AdapterDetails(AdapterDescription):
    """One version of an adapter, with what a list leaves out."""

    settings: dict[str, Any] = Field(description="The task and its settings")
    versions: list[int]
    aliases: dict[str, int] = Field(description="Version; of a rollout, its main version")
    rollouts: dict[str, RolloutReport] = Field(description="Aliases with several versions")


class ModelList(ResponseBody):
    """A page of the list of models."""

    object: Literal["list"]
    data: list[AdapterDescription | BackboneDescription]
    has_more: bool


class PromotionRuleFacts(ResponseBody):
    """When a shadow ends its rollout by itself."""

    rows: int
    agreement: float


class RolloutDescription(ResponseBody):
    """The versions behind an alias while a new one is tried."""

    weights: dict[str, int]
    shadow: int | None
    rule: PromotionRuleFacts | None
    began: str | None = Field(description="When it began, in UTC")


class ServedCounts(ResponseBody):
    """What a version has computed since the rollout began, on this server."""

    requests: int
    rows: int
    mean_seconds: float | None = Field(description="Mean seconds of a request")


class ShadowCounts(ServedCounts):
    """What a shadow has computed."""

    compared: int = Field(description="Rows with an answer or an error")
    agreed: int = Field(description="Rows with the answer that the caller got")
    skipped: int = Field(description="Rows that were left out because the server was busy")
    agreement: float | None


class RolloutCountsBody(ResponseBody):
    """The counts of a rollout."""

    served: dict[str, ServedCounts]
    shadow: ShadowCounts | None


class RolloutReport(RolloutDescription):
    """A rollout, and its counts on this server."""

    counts: RolloutCountsBody


class CardResponse(ResponseBody):
    """The model card of an adapter."""

    name: str
    version: int
    card: str = Field(description="Markdown; empty if there is none")
    files: list[str] = Field(description="Names of the plots and tables")


# Server


class ActivityReport(ResponseBody):
    """Sums since the start of the server, and its present state."""

    uptime: float
    requests: int
    rows: int
    tokens: int
    batches: int
    p50: float | None = Field(description="Median seconds of the requests of the last ten seconds")
    queue_rows: int
    queue_tokens: int
    adapters: int
    bytes: int


class BackboneFacts(ResponseBody):
    """A backbone of the server."""

    name: str
    fingerprint: str
    dtype: str
    max_input_length: int
    bytes: int = Field(description="Bytes of its weights")


class Info(ResponseBody):
    """The backbones and the limits of the server; `model_*` and `max_input_length` are those of the
    first backbone."""

    model_id: str
    model_sha: str
    model_dtype: str
    model_type: dict[str, dict[str, Any]]
    max_input_length: int
    backbones: list[BackboneFacts]
    max_batch_tokens: int
    max_client_batch_size: int
    max_body_bytes: int
    max_row_characters: int
    version: str


class Status(ResponseBody):
    """The state of the process."""

    status: Literal["ok", "ready"]
