"""The bodies of requests and responses, in the formats of TEI and in our own.

Lists of rows are checked up to their first error (`fail_fast`): a body may have a million rows, and
each error takes more memory than its row.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ..adapter.store_index import ALIAS, VERSION
from ..names import NAME
from ..tasks.types import Text

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

VersionNumber = Annotated[int, Field(ge=1, le=MAX_VERSION)]

NonEmptyText = Annotated[str, StringConstraints(min_length=1)]
RowInputs = (
    NonEmptyText | Annotated[list[NonEmptyText], Field(min_length=1, max_length=2)] | dict[str, Any]
)
"""A text, a list of one or two texts, or values by role (question and context, tokens, ...)."""

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
    def _parameters(cls, content: Any) -> Any:
        """Accepts keys of the body under `parameters`, as the clients of Hugging Face send them."""
        if not isinstance(content, dict):
            return content
        _check_number_of_keys(content)
        if not isinstance(content.get("parameters"), dict):
            return content
        _check_number_of_keys(content["parameters"])
        parameters = {
            key: value for key, value in content["parameters"].items() if value is not None
        }
        return parameters | {key: value for key, value in content.items() if key != "parameters"}


class AdapterRow(Body):
    """One row, and the adapter that answers it."""

    adapter_id: Reference | None = None
    inputs: RowInputs


class PredictBody(Body):
    """Either `inputs` for one adapter, as in TEI, or `requests` for several adapters."""

    inputs: (
        RowInputs
        | Annotated[list[list[NonEmptyText] | dict[str, Any]], Field(min_length=1, fail_fast=True)]
        | None
    ) = Field(
        None,
        description=(
            "A text; a list of one or two texts (a pair); values by role; or a batch, which is a "
            'list of such lists or values: `[["a"], ["b", "c"]]`'
        ),
    )
    adapter_id: Reference | None = None
    model: Reference | None = Field(None, description="The same as `adapter_id`")
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
    raw_scores: bool = Field(
        False,
        description="A field of TEI; only false is supported, because scores are probabilities",
        json_schema_extra={"const": False},
    )

    @model_validator(mode="after")
    def _one_way(self) -> PredictBody:
        if (self.inputs is None) == (self.requests is None):
            raise ValueError("give either inputs or requests")
        if self.requests is not None and (self.adapter_id or self.model):
            raise ValueError("with requests, each request names its own adapter_id")
        if self.one_line and self.requests is None:
            raise ValueError("one_line needs requests")
        if self.adapter_id and self.model:
            raise ValueError("give adapter_id or model, not both: they mean the same")
        if self.raw_scores:
            raise ValueError("raw_scores is not supported: scores are probabilities")
        return self

    @property
    def is_batch(self) -> bool:
        """Whether the answer is a list with one entry per row."""
        return isinstance(self.inputs, list) and not isinstance(self.inputs[0], str)

    def rows(self) -> list[tuple[str | None, Text]]:
        """Adapter and text of each row."""
        if self.requests is not None:
            return [(request.adapter_id, to_row(request.inputs)) for request in self.requests]
        adapter = self.adapter_id or self.model
        if self.is_batch:
            return [(adapter, to_row(inputs)) for inputs in self.inputs or []]
        return [(adapter, to_row(self.inputs))]


class EmbedBody(Body):
    """Texts to embed, as in TEI. A list is always a batch."""

    inputs: NonEmptyText | Annotated[list[NonEmptyText], Field(min_length=1, fail_fast=True)]
    adapter_id: Reference | None = None
    normalize: bool = True
    truncate: bool = True


class Sentences(Body):
    """One sentence, and the sentences that it is compared with."""

    source_sentence: NonEmptyText
    sentences: list[NonEmptyText] = Field(min_length=1, fail_fast=True)


class SimilarityBody(Body):
    """Sentences to compare, as in TEI."""

    inputs: Sentences
    adapter_id: Reference | None = None
    truncate: bool = True


class VersionBody(Body):
    """A version of an adapter."""

    version: VersionNumber


class ErrorBody(BaseModel):
    """The body of every error."""

    error: str
    error_type: str


def _check_number_of_keys(content: dict[str, Any]) -> None:
    if len(content) > MAX_KEYS:
        raise ValueError(f"expected at most {MAX_KEYS} keys, got {len(content)}")


def to_row(inputs: Any) -> Text:
    """One row in the form that tasks read: a list of one text becomes that text."""
    text: Text = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    return text
