"""Options of Hugging Face pipelines that have one value here; others are refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class FixedOption(NamedTuple):
    """An option that cannot be chosen.

    Attributes:
        values: Values that ask for what is done anyway.
        reason: Why there are no others.
    """

    values: tuple[Any, ...]
    reason: str


_ZERO_SHOT = FixedOption(
    (), "zero-shot is not supported: an adapter answers with the labels of its training"
)
_TRAINING = FixedOption((), "the adapter reads long texts as in its training")

FIXED_OPTIONS: Mapping[str, FixedOption] = {
    "raw_scores": FixedOption((False,), "scores are probabilities"),
    "aggregation_strategy": FixedOption(("simple",), "entities are whole (simple)"),
    "truncation_direction": FixedOption(("right", "Right"), "texts are cut at their end"),
    "prompt_name": FixedOption((), "an adapter has no prompts"),
    "prompt": FixedOption((), "an adapter has no prompts"),
    "candidate_labels": _ZERO_SHOT,
    "hypothesis_template": _ZERO_SHOT,
    "multi_label": _ZERO_SHOT,
    "stride": _TRAINING,
    "doc_stride": _TRAINING,
    "max_seq_len": _TRAINING,
    "max_question_len": _TRAINING,
    "max_answer_len": _TRAINING,
    "align_to_words": _TRAINING,
    "handle_impossible_answer": _TRAINING,
}
"""The options by name."""


def without_fixed_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a body without options that ask for what is done anyway.

    Raises:
        ValueError: An option asks for something else.
    """
    kept = {}
    for key, value in content.items():
        option = FIXED_OPTIONS.get(key)
        if option is None:
            kept[key] = value
        elif value is not None and not any(
            value is one or (isinstance(one, str) and value == one) for one in option.values
        ):
            raise ValueError(f"{key}: {option.reason}")
    return kept
