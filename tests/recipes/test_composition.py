"""The parts of recipes/deploy/compose.yaml at work: server, bucket, Prometheus, alerts that fire.

There is no container engine here. Each service runs its own command in its own environment, moto
is the S3 server, and Grafana is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import httpx2
import pytest
from ruamel.yaml import YAML

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.folder import save_adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.client.http import Client
from adapterkit.inference.predictor import Predictor
from helpers.adapters import MakeAdapter
from helpers.alerts import expressions, metric_names
from helpers.composition import Composition, free_port, image_environment, running
from helpers.object_store import s3_server
from helpers.paths import DEPLOY, ROOT
from helpers.tolerance import assert_close

T = TypeVar("T")

TEXT = "where is my card"

PROMETHEUS = shutil.which("prometheus")
PATIENCE = 400.0
"""Most seconds that the test waits for anything."""

INTERVAL = "2s"
"""Between two looks of Prometheus at the server, and the duration of an alert before it fires."""

CONDITIONAL = {
    "adapterkit_drift_js_distance",
    "adapterkit_drift_psi",
    "adapterkit_drift_psi_limit",
    "adapterkit_rollout_requests_total",
    "adapterkit_rollout_rows_total",
    "adapterkit_rollout_seconds_total",
    "adapterkit_shadow_rows_total",
}
"""Metrics without a sample before the server has answered enough rows to report drift, or has a
rollout."""

MC = """#!{python}
import json, sys
from pathlib import Path
from urllib.request import Request, urlopen

aliases = Path(__file__).with_name("aliases.json")
match sys.argv[1:]:
    case ["alias", "set", name, url, key, password]:
        aliases.write_text(json.dumps({{name: url}}))
    case ["mb", "--ignore-existing", place]:
        name, _, bucket = place.partition("/")
        urlopen(Request(json.loads(aliases.read_text())[name] + "/" + bucket, method="PUT")).close()
    case words:
        sys.exit(f"mc: {{words}}")
"""
"""The two commands of MinIO's client that the composition uses, for a server without signatures."""


def wait_for(condition: Callable[[], T | None], what: str) -> T:
    """The first result of a condition that is not None."""
    deadline = time.monotonic() + PATIENCE
    while (found := condition()) is None:
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


class PrometheusApi:
    """The API of a Prometheus.

    Args:
        url: Its URL.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        try:
            response = httpx2.get(f"{self._url}/{path}", params=parameters, timeout=60)
        except httpx2.ConnectError:  # it is starting
            return None
        return response.json().get("data")

    def value(self, promql: str) -> float | None:
        """The value of the only series of an expression."""
        found = self.get("query", query=promql)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def firing(self, name: str) -> dict[str, Any] | None:
        """The alert of a rule, if it fires."""
        alerts = self.get("alerts")["alerts"]
        fire = [one for one in alerts if one["state"] == "firing"]
        return next((one for one in fire if one["labels"]["alertname"] == name), None)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files of the composition and the keys that its first lines make."""
    shutil.copytree(DEPLOY, tmp_path / "checkout" / "recipes" / "deploy")
    compose = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^# +((?:adapterkit|chmod) .+)$", compose, re.MULTILINE))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path / "checkout",
        env=here(),
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "checkout" / "key-of-acme").write_text(done.stderr.rpartition(": ")[2].strip())
    return tmp_path / "checkout"


def here(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that finds this package and its programs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **(more or {})}


def shorten(composition: Composition) -> None:
    """Has Prometheus look more often at the server, and alert at once. Expressions stay."""
    file = composition.path("/etc/prometheus/prometheus.yaml")
    yaml = YAML(typ="safe")
    settings = yaml.load(file)
    settings["global"] |= {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    (scrape,) = settings["scrape_configs"]
    (static,) = scrape["static_configs"]
    static["targets"] = [composition.addresses[target] for target in static["targets"]]
    authorization = scrape["authorization"]
    authorization["credentials_file"] = composition.local(authorization["credentials_file"])
    yaml.dump(settings, file)
    for name in settings["rule_files"]:
        rules = yaml.load(file.parent / name)
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule["for"] = INTERVAL
        yaml.dump(rules, file.parent / name)


def make_bucket(composition: Composition, folder: Path) -> None:
    """Runs the service that makes the bucket."""
    folder.mkdir()
    program = folder / "mc"
    program.write_text(MC.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    environment = here(composition.environment("bucket"))
    environment["PATH"] = os.pathsep.join([str(folder), environment["PATH"]])
    subprocess.run(composition.command("bucket", ["mc"]), env=environment, check=True)


@contextmanager
def server(composition: Composition, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the server; yields its process when it is ready."""
    image = DEPLOY / "Containerfile"
    entrypoint = re.search(r"^ENTRYPOINT (\[.+\])$", image.read_text("utf-8"), re.MULTILINE)
    assert entrypoint is not None
    command = composition.command("server", json.loads(entrypoint[1]))
    variables = {key: composition.local(one) for key, one in image_environment(image).items()}
    environment = here({**variables, **composition.environment("server")})
    url = f"http://{composition.addresses['server:8080']}"
    with running(command, environment, log) as process:

        def is_ready() -> bool | None:
            assert process.poll() is None, log.read_text("utf-8")[-3000:]
            try:
                return httpx2.get(f"{url}/ready", timeout=60).status_code == 200 or None
            except httpx2.ConnectError:
                return None

        wait_for(is_ready, "the server")
        yield process


@contextmanager
def prometheus_of(composition: Composition, folder: Path) -> Iterator[PrometheusApi]:
    """Runs Prometheus; yields its API when it has seen the server."""
    shorten(composition)
    address, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = composition.command("prometheus", [str(PROMETHEUS)])
    command += [f"--web.listen-address={address}", f"--storage.tsdb.path={folder}/metrics"]
    with running(command, here(), log) as process:
        api = PrometheusApi(f"http://{address}")

        def is_up() -> bool | None:
            assert process.poll() is None, log.read_text("utf-8")[-3000:]
            return api.value('up{job="adapterkit"}') == 1 or None

        wait_for(is_up, "a look at the server")
        yield api


def publish(
    composition: Composition, adapter: Adapter, backbone: Backbone, patch: pytest.MonkeyPatch
) -> None:
    """Publishes an adapter into the bucket, with the variables of the server."""
    with patch.context() as variables:
        for name, value in composition.environment("server").items():
            variables.setenv(name, value)
        Store("s3://adapters", composition.root / "publisher").publish(adapter, backbone.geometry)
        fsspec.filesystem("s3").clear_instance_cache()


def check_metrics(prometheus: PrometheusApi) -> None:
    """Every metric that rules and panels use is there, but for those that wait for an event."""
    rows = 'adapterkit_adapter_rows_total{adapter="acme/used"}'
    wait_for(lambda: prometheus.value(rows), "the rows of an adapter")
    used = set[str]().union(*(metric_names(promql) for _, promql in expressions()))
    assert used - set(prometheus.get("label/__name__/values")) == CONDITIONAL


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")
def test_alerts_fire_when_the_server_or_its_bucket_is_lost(
    checkout: Path,
    minilm: Backbone,
    make_adapter: MakeAdapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("s3fs")
    used, other = (make_adapter(minilm, name=f"acme/{name}") for name in ("used", "other"))
    (expected,) = Predictor(minilm, [used])([("acme/used", TEXT)])
    key = (checkout / "key-of-acme").read_text()
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "server.log"
    with ExitStack() as services, ExitStack() as bucket:
        store = bucket.enter_context(s3_server())["AWS_ENDPOINT_URL"].removeprefix("http://")
        composition = Composition(
            checkout / "recipes" / "deploy" / "compose.yaml",
            tmp_path / "root",
            {"S3_PASSWORD": "secret"},
            {"server:8080": address, "store:9000": store},
        )
        make_bucket(composition, tmp_path / "mc")
        with server(composition, log) as process, Client(f"http://{address}", key) as client:
            client.publish("acme/used", save_adapter(used, tmp_path / "used", minilm.geometry))
            publish(composition, other, minilm, monkeypatch)
            assert_close(client.predict("acme/used", TEXT), {**expected, "version": 1})
            prometheus = services.enter_context(prometheus_of(composition, tmp_path))
            check_metrics(prometheus)
            process.kill()
            alert = wait_for(lambda: prometheus.firing("AdapterkitDown"), "the first alert")
            assert alert["labels"] == {
                "alertname": "AdapterkitDown",
                "severity": "critical",
                "job": "adapterkit",
                "instance": address,
            }
            assert alert["annotations"]["summary"] == f"{address} does not answer /metrics"
        with server(composition, log) as process, Client(f"http://{address}", key) as client:
            wait_for(lambda: prometheus.firing("AdapterkitDown") is None or None, "its end")
            assert_close(client.predict("acme/used", TEXT), {**expected, "version": 1})
            bucket.close()

            def errors() -> dict[str, Any] | None:
                assert_close(client.predict("acme/used", TEXT), {**expected, "version": 1})
                body = {"adapter_id": "acme/other", "inputs": TEXT}
                headers = {"authorization": f"Bearer {key}"}
                url = f"{client.url}/predict"
                refused = httpx2.post(url, json=body, headers=headers, timeout=60)
                assert refused.status_code == 503
                return prometheus.firing("AdapterkitErrors")

            alert = wait_for(errors, "the second alert")
            assert alert["labels"]["instance"] == address
            assert alert["labels"]["severity"] == "critical"
            assert "of the requests" in alert["annotations"]["summary"]
            process.terminate()
            assert process.wait(PATIENCE) == 0
