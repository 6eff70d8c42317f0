"""The bodies of requests and responses, in the formats of TEI and in our own.

Lists of rows are checked up to their first error (`fail_fast`): a body may have a million rows, and
each error takes more memory than its row.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ...adapter.aliases import ALIAS
from ...adapter.rollout import MAX_VERSIONS, MAX_WEIGHT, Rollout
from ...errors import DataError, did_you_mean
from ...names import NAME, VERSION
from .pipeline_options import without_fixed_options
from .row_inputs import Inputs, Row, TextOrTexts, Texts
from .token_ids import TokenIds

# The patterns of names are only part of the description. The store checks every name and has the
# better error messages.
VERSION_PATTERN = f"{ALIAS.pattern}|{VERSION.pattern}"

Name = Annotated[
    str,
    Path(description="`tenant/name` or `name`", json_schema_extra={"pattern": f"^{NAME.pattern}$"}),
]
Alias = Annotated[str, Path(json_schema_extra={"pattern": f"^{ALIAS.pattern}$"})]
VersionOrAlias = Annotated[
    str,
    Path(
        description="Number of a version, or an alias",
        json_schema_extra={"pattern": f"^({VERSION_PATTERN})$"},
    ),
]

MAX_VERSION = 999_999_999
"""Largest number that `VERSION` permits."""

MAX_KEYS = 32
"""Most keys of a body; each unknown one is an error with a message."""

VersionKey = Annotated[str, StringConstraints(pattern=f"^{VERSION.pattern}$")]

VersionNumber = Annotated[int, Field(ge=1, le=MAX_VERSION)]

NonEmptyText = Annotated[str, StringConstraints(min_length=1)]

Reference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Field(
        description="`tenant/name`, `name@version` or `name@alias`; `base` for the plain backbone",
        json_schema_extra={"pattern": f"^{NAME.pattern}(@({VERSION_PATTERN}))?$"},
    ),
]


class Body(BaseModel):
    """The body of a request. Unknown keys are errors, so that a misspelt key is not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, content: Any) -> Any:
        """Checks the keys, also those under `parameters`, as the clients of Hugging Face send
        them."""
        if not isinstance(content, dict):
            return content
        parameters = content.get("parameters")
        if isinstance(parameters, dict):
            _check_number_of_keys(parameters)
            given = {key: value for key, value in parameters.items() if value is not None}
            content = given | content
        _check_number_of_keys(content)
        content = without_fixed_options(content)
        if "parameters" not in cls.model_fields and isinstance(parameters, dict):
            del content["parameters"]
        for key in content:
            if key not in cls.model_fields:
                hint = did_you_mean(key, cls.model_fields)
                raise ValueError(f"there is no key {key!r:.80}; {hint}")
        return content


class AdapterBody(Body):
    """A body that may name an adapter."""

    adapter_id: Reference | None = None
    model: Reference | None = Field(None, description="The same as `adapter_id`")

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.adapter_id and self.model:
            raise ValueError("give adapter_id or model, not both: they mean the same")
        return self

    @property
    def adapter(self) -> str | None:
        """The adapter that it names."""
        return self.adapter_id or self.model


class AdapterRow(Body):
    """One row, and the adapter that answers it."""

    adapter_id: Reference | None = None
    inputs: Row


class PredictBody(AdapterBody):
    """Either `inputs` for one adapter, as in TEI, or `requests` for several adapters."""

    inputs: Inputs = Field(
        None,
        description=(
            "A text; values by role; or a batch, which is a list of lists of one or two texts, or "
            'of values: `[["a"], ["b"]]`. A flat list `["a", "b"]` is a batch of texts for an '
            "adapter that reads single texts, and one row for all others, such as a pair"
        ),
    )
    requests: Annotated[list[AdapterRow], Field(min_length=1, fail_fast=True)] | None = None
    truncate: bool = Field(
        True,
        description="Truncate long texts, as in the adapter's training, or refuse them (422)",
    )
    one_line: bool = Field(
        False,
        description=(
            "With `requests`: add to each answer a summary `one_line: {text, score}`; score is "
            "null if the answer has no score"
        ),
    )
    top_k: int | None = Field(None, ge=1, description="Most labels of an answer")
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="How scores are computed; only the function of the adapter's task"
    )
    ignore_labels: list[str] | None = Field(None, description="Entities that are left out")
    parameters: dict[str, Any] | None = Field(
        None,
        description=(
            "Keys of the body other than `inputs`, as the clients of Hugging Face send them; the "
            "labels of a single text are then a list in a list, as these clients read them"
        ),
    )

    @model_validator(mode="after")
    def _one_way(self) -> PredictBody:
        if (self.inputs is None) == (self.requests is None):
            raise ValueError("give either inputs or requests")
        if self.requests is not None and self.adapter:
            raise ValueError("with requests, each request names its own adapter_id")
        if self.one_line and self.requests is None:
            raise ValueError("one_line needs requests")
        options = (self.top_k, self.function_to_apply, self.ignore_labels)
        if self.requests is not None and any(option is not None for option in options):
            raise ValueError("top_k, function_to_apply and ignore_labels need inputs")
        return self

    @property
    def is_batch(self) -> bool:
        """Whether it is a batch whatever the adapter reads."""
        return isinstance(self.inputs, list) and not self.is_flat

    @property
    def is_flat(self) -> bool:
        """Whether it is a flat list of texts, whose meaning depends on the adapter."""
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], str)


class EmbedBody(AdapterBody):
    """Texts to embed, as in TEI. A list is always a batch."""

    inputs: TextOrTexts
    normalize: bool = True
    truncate: bool = True
    dimensions: int | None = Field(None, ge=1, description="The length of the vectors")
    encoding_format: Literal["float"] = "float"


class EmbedAllBody(AdapterBody):
    """Texts whose tokens are embedded, as in TEI. A list is always a batch."""

    inputs: TextOrTexts
    truncate: bool = True


class TokenizeBody(AdapterBody):
    """Texts to tokenise, as in TEI; an adapter stands for its backbone."""

    inputs: TextOrTexts
    add_special_tokens: bool = True


class DecodeBody(AdapterBody):
    """Token ids to decode, as in TEI; an adapter stands for its backbone."""

    ids: TokenIds
    skip_special_tokens: bool = True


class InvocationBody(PredictBody):
    """A body for `/predict`, or for `/embed` if the adapter gives vectors."""

    normalize: bool | None = Field(None, description="As in `/embed`")


class EmbeddingsBody(AdapterBody):
    """Texts to embed, as in OpenAI's API."""

    input: TextOrTexts
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian float32"
    )
    dimensions: int | None = Field(None, ge=1, description="The length of the vectors")
    user: str | None = Field(None, description="Not read")

    @model_validator(mode="before")
    @classmethod
    def _no_token_ids(cls, content: Any) -> Any:
        texts = content.get("input") if isinstance(content, dict) else None
        if isinstance(texts, list) and texts and isinstance(texts[0], (int, list)):
            raise ValueError(
                "input: expected texts; numbers of tokens belong to the vocabulary of another "
                "model (in LangChain, set check_embedding_ctx_length=False)"
            )
        return content


class Sentences(Body):
    """One sentence, and the sentences that it is compared with."""

    source_sentence: NonEmptyText
    sentences: Texts


class SimilarityBody(AdapterBody):
    """Sentences to compare, as in TEI."""

    inputs: Sentences
    truncate: bool = True


class RerankBody(AdapterBody):
    """Texts to sort by their similarity to a query, as in TEI."""

    query: NonEmptyText
    texts: Texts
    return_text: bool = False
    truncate: bool = True


class VersionBody(Body):
    """A version of an adapter."""

    version: VersionNumber


class PromotionRuleBody(Body):
    """When a shadow ends its rollout by itself."""

    rows: int = Field(ge=1, le=MAX_VERSION, description="Compared rows after which it is decided")
    agreement: float = Field(
        gt=0, le=1, description="Least share of equal answers with which the shadow is promoted"
    )


class RolloutBody(Body):
    """The versions behind an alias while a new one is tried."""

    weights: dict[VersionKey, Annotated[int, Field(ge=1, le=MAX_WEIGHT)]] = Field(
        min_length=1, max_length=MAX_VERSIONS, description="Weight by version: {'3': 90, '4': 10}"
    )
    shadow: VersionNumber | None = Field(
        None, description="A version that answers as well, and whose answers are only compared"
    )
    rule: PromotionRuleBody | None = None

    def rollout(self) -> Rollout:
        """The rollout.

        Raises:
            DataError: It is not valid.
        """
        try:
            return Rollout.of_json(self.model_dump())
        except ValueError as error:
            raise DataError(str(error)) from None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: str
    error_type: str


class OpenAIError(BaseModel):
    """What is wrong, and `error_type` again."""

    message: str
    type: str


class OpenAIErrorBody(BaseModel):
    """The body of every error of the routes in OpenAI's format."""

    error: OpenAIError
    error_type: str


def _check_number_of_keys(content: dict[str, Any]) -> None:
    if len(content) > MAX_KEYS:
        raise ValueError(f"expected at most {MAX_KEYS} keys, got {len(content)}")
