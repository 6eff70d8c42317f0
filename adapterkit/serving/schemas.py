"""Bodies of requests and answers: TEI's and our own; each is checked before anything is done."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..adapter.store import ALIAS, VERSION
from ..names import NAME
from ..tasks.types import Text

# Patterns are told, not checked here: the store checks every name, whoever it comes from, and says
# in words what it expected.
WHICH = f"{ALIAS.pattern}|{VERSION.pattern}"

Name = Annotated[
    str,
    Path(description="`tenant/name` or `name`", json_schema_extra={"pattern": f"^{NAME.pattern}$"}),
]
Alias = Annotated[str, Path(json_schema_extra={"pattern": f"^{ALIAS.pattern}$"})]
Which = Annotated[
    str, Path(description="A number or an alias", json_schema_extra={"pattern": f"^({WHICH})$"})
]

Word = Annotated[str, StringConstraints(min_length=1)]
Row = Word | Annotated[list[Word], Field(min_length=1, max_length=2)] | dict[str, Any]
"""A text, a text and its pair, or values by role (question and context, tokens, choices, ...)."""

Reference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Field(
        description="`tenant/name`, `name@version` or `name@alias`; `base` is the backbone",
        json_schema_extra={"pattern": f"^{NAME.pattern}(@({WHICH}))?$"},
    ),
]


class Body(BaseModel):
    """A request's body; an unknown key is refused, a misspelt one would be lost in silence."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _parameters(cls, content: Any) -> Any:
        """What Hugging Face's clients put under `parameters` is meant as keys of the body."""
        if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
            return content
        given = {key: value for key, value in content["parameters"].items() if value is not None}
        return given | {key: value for key, value in content.items() if key != "parameters"}


class Ask(Body):
    """One row and the adapter it is for."""

    adapter_id: Reference | None = None
    inputs: Row


class PredictBody(Body):
    """Either `inputs` for one adapter, as TEI has it, or `requests` that mix adapters."""

    inputs: Row | Annotated[list[list[Word] | dict[str, Any]], Field(min_length=1)] | None = Field(
        None,
        description=(
            "One text; a list of one or two texts (a text and its pair); values by role; or a "
            'batch: a list of such lists or values, `[["a"], ["b", "c"]]`'
        ),
    )
    adapter_id: Reference | None = None
    model: Reference | None = Field(None, description="The same as `adapter_id`")
    requests: list[Ask] | None = Field(None, min_length=1)
    truncate: bool = Field(
        True, description="Cut longer texts as the adapter was trained to, or refuse them (422)"
    )
    one_line: bool = Field(
        False,
        description=(
            "With `requests`: add `one_line` to each answer, the answer in one line for people, "
            "`{text, score}`; score is null where the answer has none"
        ),
    )
    raw_scores: bool = Field(
        False,
        description="Of TEI; scores are probabilities here",
        json_schema_extra={"const": False},
    )

    @model_validator(mode="after")
    def _one_way(self) -> PredictBody:
        if (self.inputs is None) == (self.requests is None):
            raise ValueError("give either inputs or requests")
        if self.requests is not None and (self.adapter_id or self.model):
            raise ValueError("with requests, each request names its own adapter_id")
        if self.one_line and self.requests is None:
            raise ValueError("one_line goes with requests")
        if self.adapter_id and self.model:
            raise ValueError("give adapter_id or model, they mean the same")
        if self.raw_scores:
            raise ValueError("raw_scores is not offered here: scores are probabilities")
        return self

    @property
    def is_batch(self) -> bool:
        """Whether the answer is a list with an entry for each row."""
        return isinstance(self.inputs, list) and not isinstance(self.inputs[0], str)

    def asked(self) -> list[tuple[str | None, Text]]:
        """Adapter and text of each row."""
        if self.requests is not None:
            return [(ask.adapter_id, row(ask.inputs)) for ask in self.requests]
        adapter = self.adapter_id or self.model
        if self.is_batch:
            return [(adapter, row(one)) for one in self.inputs or []]
        return [(adapter, row(self.inputs))]


class EmbedBody(Body):
    """Texts to turn into vectors, as TEI has it: here a list is always a batch."""

    inputs: Word | Annotated[list[Word], Field(min_length=1)]
    adapter_id: Reference | None = None
    normalize: bool = True
    truncate: bool = True


class Sentences(Body):
    """What is compared with what."""

    source_sentence: Word
    sentences: list[Word] = Field(min_length=1)


class SimilarityBody(Body):
    """One sentence against several, as TEI has it."""

    inputs: Sentences
    adapter_id: Reference | None = None
    truncate: bool = True


class VersionBody(Body):
    """A version of an adapter."""

    version: int = Field(ge=1)


class Fault(BaseModel):
    """Every error's body."""

    error: str
    error_type: str


def row(inputs: Any) -> Text:
    """One row as tasks read it: a list of one text is that text."""
    text: Text = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    return text
