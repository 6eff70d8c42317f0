"""Requests that are made from the server's own description, valid and invalid ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.serving.api_keys import hash_key
from helpers.adapters import MakeAdapter
from helpers.server import serving

NOT_CHECKED = [
    ignored_auth,  # repeats a request without its key, but with the headers that are given here
    positive_data_acceptance,  # the description has no rules between fields (status 422)
]


@pytest.fixture(scope="module")
def url(
    tiny: Backbone,
    make_adapter: MakeAdapter,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fuzz")
    store = Store(folder / "store")
    store.publish(make_adapter(tiny, "lora", name="acme/intent", seed=1), tiny.geometry)
    keys = {"ops": {"key": hash_key("ak-ops"), "adapters": ["*"], "admin": True}}
    (folder / "keys.yaml").write_text(json.dumps(keys))
    with serving(store.root, tiny_folder, keys=folder / "keys.yaml") as url:
        yield url


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("n_requests", [10, pytest.param(350, marks=pytest.mark.slow)])
def test_every_answer_is_as_described(url: str, mode: GenerationMode, n_requests: int) -> None:
    """Schemathesis checks the status, the content type and the body of each answer, and that
    invalid requests are refused."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "414"]  # a text in the query
    n_operations = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @settings(
            max_examples=n_requests,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case[Any]) -> None:
            key = {"authorization": "Bearer ak-ops"}
            case.call_and_validate(headers=key, excluded_checks=NOT_CHECKED)

        try:
            check()
        except Unsatisfiable:  # without parameters and body, no request is invalid
            assert mode is GenerationMode.NEGATIVE
        else:
            n_operations += 1
    assert n_operations >= 15
