"""The files of `recipes/deploy` are valid, and agree with each other and with the command line."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.metrics import metrics
from helpers.adapters import MakeAdapter
from helpers.chart import render_chart
from helpers.command_line import run_command
from helpers.paths import DEPLOY, ROOT
from helpers.tolerance import assert_close

CHART = DEPLOY / "chart"
VALUES = {
    "default": {},
    "volume": {
        "volumeClaim": "adapters",
        "store": "/adapters",
        "options": ["--pin", "acme/intent", "--lanes=2"],
        "autoscaling": {"enabled": False},
        "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]},
        "envFrom": [{"secretRef": {"name": "bucket"}}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "cpu", "operator": "Exists"}],
    },
}


def documents(name: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all((DEPLOY / name).read_text(encoding="utf-8")))


def servers() -> Iterator[tuple[str, Sequence[str]]]:
    """The arguments of `adapterkit serve` in each file."""
    (compose,) = documents("compose.yaml")
    yield "compose.yaml", compose["services"]["server"]["command"]
    runtime, _ = documents("kserve.yaml")
    yield "kserve.yaml", runtime["spec"]["containers"][0]["args"]
    container = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    command = re.search(r"^CMD (\[.+\])$", container, re.MULTILINE)
    assert command is not None
    yield "Containerfile", json.loads(command[1])
    chart = (CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    yield "chart", ["/adapters", *re.findall(r"^ +- (--[a-z]+=\S+)$", chart, re.MULTILINE)]


@pytest.mark.parametrize(("name", "arguments"), list(servers()), ids=lambda one: str(one)[:13])
def test_every_option_is_one_of_the_server(name: str, arguments: Sequence[str]) -> None:
    """The command ends at the key file, which is not there, and at no option before it."""
    known = run_command("serve", "--help").out
    options = [one.partition("=")[0] for one in arguments if one.startswith("--")]
    assert {"--host", "--port", "--keys"} <= set(options)
    for option in options:
        assert re.search(rf"{option}\b", known), f"{name}: {option}"
    assert run_command("serve", *arguments).err.startswith("Error: ")


def test_the_parts_of_the_composition_know_each_other() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), (name, volume)
    (prometheus,) = documents("prometheus.yaml")
    (scrape,) = prometheus["scrape_configs"]
    host, _, port = scrape["static_configs"][0]["targets"][0].partition(":")
    assert port == services[host]["command"][services[host]["command"].index("--port") + 1]
    key = Path(scrape["authorization"]["credentials_file"]).name
    assert key in services["prometheus"]["secrets"]


def test_envoy_asks_for_a_server_that_is_ready() -> None:
    (envoy,) = documents("envoy.yaml")
    (cluster,) = envoy["static_resources"]["clusters"]
    (route,) = envoy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
        "typed_config"
    ]["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["cluster"] == cluster["name"]
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/ready"
    assert cluster["common_lb_config"]["consistent_hashing_lb_config"]["hash_balance_factor"] > 100


def test_the_autoscaler_reads_a_metric_of_the_server() -> None:
    text = (CHART / "templates" / "autoscaler.yaml").read_text(encoding="utf-8")
    named = re.findall(r"metric: \{name: (\w+)\}", text)
    assert named == ["adapterkit_queue_tokens"]
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    assert f'"{named[0]}"' in source


@pytest.mark.parametrize("values", list(VALUES.values()), ids=list(VALUES))
def test_the_chart_gives_valid_objects(values: Mapping[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    pytest.importorskip("gotpl")
    rendered = render_chart(CHART, values)
    kinds = {one["kind"] for one in rendered}
    expected = {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    autoscaled = values.get("autoscaling", {}).get("enabled", True)
    assert kinds == expected | ({"HorizontalPodAutoscaler"} if autoscaled else set())
    for one in rendered:
        kubernetes.validate(one, "1.31", strict=True)
    (deployment,) = (one for one in rendered if one["kind"] == "Deployment")
    assert ("replicas" in deployment["spec"]) is not autoscaled
    pod = deployment["spec"]["template"]
    selected = deployment["spec"]["selector"]["matchLabels"]
    assert pod["metadata"]["labels"].items() >= selected.items()
    mounts = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_rows_in_spark_are_answered(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
) -> None:
    """The function for `mapInPandas`, on the data frames of two partitions."""
    pandas = pytest.importorskip("pandas")
    script = runpy.run_path(str(ROOT / "recipes" / "scripts" / "spark_predict.py"))
    store = Store("store")
    for seed, name in enumerate(("acme/mood", "globex")):
        store.publish(make_adapter(tiny, name=name, seed=seed), tiny.geometry)
    references = script["latest_versions"]("store", ["acme/mood", "globex", "base"])
    assert references == {"acme/mood": "acme/mood@1", "globex": "globex@1"}
    store.publish(make_adapter(tiny, name="globex", seed=9), tiny.geometry)
    frame = pandas.DataFrame(
        {"adapter": ["globex", "acme/mood", "base"], "text": ["rain", "sun", "雨"], "id": [1, 2, 3]}
    )
    answer = script["answer_rows"]("store", references)
    first, second = answer(iter([frame[:2], frame[2:]]))
    assert list(first.columns) == [*frame.columns, "answer"]
    found = [json.loads(text) for text in (*first["answer"], *second["answer"])]
    expected = Predictor.open(list(references.values()), store)(
        list(zip(frame["adapter"], frame["text"], strict=True))
    )
    assert_close(found, expected)
