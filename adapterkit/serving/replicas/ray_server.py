"""A service of several replicas on a Ray cluster: Ray Serve starts, scales and replaces them.

Serve's proxies, one on each machine that has a replica, hold the connections of clients. A proxy
passes each request to a replica, which `TenantRequestRouter` chooses.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from uuid import uuid4

import httpx2

from ...cluster.ray_cluster import RayCluster, cause_of
from ...errors import AdapterkitError
from ..http.cors import check_origins
from ..http.tls import load_tls
from ..json_logs import log, log_as_json
from ..keys.key_file import VARIABLE
from ..listening import bound, check_host, url_of, warn_of_plain_http
from ..middleware.body_limits import BODY_SECONDS
from ..server import DRAIN_SECONDS, Settings, load_keys, open_store
from .coordinator import Coordinator
from .ray_replica import Replica
from .replicas import Replicas

APPLICATION = "adapterkit"
"""Name of the application, and of the namespace of its coordinator, on the cluster."""

ROUTER = "adapterkit.serving.replicas.ray_request_router.TenantRequestRouter"
SCALING = "adapterkit.serving.replicas.replica_scaling.TokenScaling"

MOST_REQUESTS = 4096
"""Most requests under way in a replica. Its own queue is limited by tokens, which is earlier."""

MOST_WAITING = 1000
"""Most requests that wait in a proxy while no replica accepts one; further ones get status 503."""

HEALTH_SECONDS = 2.0
"""Seconds between two looks at a replica. One that was lost is replaced so much later."""

STARTS = 1
"""How often Serve tries to start the first replicas. What prevents one prevents the next."""

ROUTE_SECONDS = 10.0
"""Most seconds to wait until a proxy knows the replicas."""


def run_replicas(settings: Settings, replicas: Replicas, host: str, port: int) -> None:
    """Serves with several replicas until SIGTERM or SIGINT, then drains.

    Raises:
        AdapterkitError: The settings are not valid, the port is in use, Ray is not installed, or
            the cluster cannot start the replicas.
    """
    _check(settings, host)
    with bound(host, port) as sock:  # each proxy binds the port itself
        port = sock.getsockname()[1]
    cluster = RayCluster(worker_cpus=replicas.cpus, log_to_driver=False)
    with _ended_by_sigterm():  # after Ray, which has a handler of its own
        on_gpu = _uses_gpu(settings, cluster)
        check_cluster(cluster, replicas, on_gpu=on_gpu)
        log_as_json()
        if settings.ssl_certfile is None:
            warn_of_plain_http(host)
        service = _RayService(cluster, settings, replicas, on_gpu=on_gpu)
        try:
            with cluster.errors():
                service.start(host, port)
            url = url_of(host, port, is_tls=settings.ssl_certfile is not None)
            _wait_for_route(url)
            facts = {
                "url": url,
                "store": settings.store,
                "replicas": [replicas.least, replicas.most],
                "keys": settings.keys is not None,
                "logs": cluster.log_folder,
            }
            _wait_for_signal(facts)
        finally:
            service.stop()
    log.info("ended")


def _check(settings: Settings, host: str) -> None:
    """Finds what is wrong before a cluster is started.

    Raises:
        AdapterkitError: A setting is not valid.
    """
    if settings.keys is None and VARIABLE in os.environ:
        raise AdapterkitError(
            f"--engine ray reads the keys from a file, on every machine of the cluster: give "
            f"--keys FILE in place of {VARIABLE}"
        )
    keys = load_keys(settings.keys)
    check_host(host, keys)
    check_origins(settings.cors_origins, has_keys=keys is not None)
    load_tls(settings.ssl_certfile, settings.ssl_keyfile)
    open_store(settings)


def _uses_gpu(settings: Settings, cluster: RayCluster) -> bool:
    """Whether each replica has a GPU."""
    device = settings.load_options.device
    return device == "cuda" or (device == "auto" and cluster.gpus > 0)


def check_cluster(cluster: RayCluster, replicas: Replicas, *, on_gpu: bool) -> None:
    """Checks that the cluster is large enough and not in use by another service.

    Raises:
        AdapterkitError: It is not.
    """
    needed = {"CPUs": (replicas.least * replicas.cpus, cluster.cpus)}
    if on_gpu:
        needed["GPUs"] = (replicas.least, cluster.gpus)
    for kind, (n, there) in needed.items():
        if n <= there:
            continue
        options = f"--replicas {replicas.least} with --replica-cpus {replicas.cpus}"
        if not cluster.may_grow:
            raise AdapterkitError(
                f"{options}: {n} {kind} are needed, this machine has {there}; give fewer, or name "
                "a cluster (RAY_ADDRESS)"
            )
        log.warning(
            f"{options}: {n} {kind} are needed, the cluster has {there} now; waiting until it grows"
        )
    if cluster.serve.status().proxies:
        raise AdapterkitError(
            "Ray Serve runs on this cluster already, with a port and options of its own; end it "
            "with `serve shutdown`, or use another cluster"
        )


class _RayService:
    """The application of Ray Serve, and the coordinator beside it.

    Args:
        cluster: The cluster.
        settings: Settings of each replica.
        replicas: Their number and size.
        on_gpu: Whether each has a GPU.
    """

    def __init__(
        self, cluster: RayCluster, settings: Settings, replicas: Replicas, *, on_gpu: bool
    ) -> None:
        self._ray = cluster.ray
        self._serve = cluster.serve
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._on_gpu = on_gpu
        self._settings = replace(
            settings, cores=replicas.cpus, keys=settings.keys and settings.keys.absolute()
        )
        self._replicas = replicas
        self._coordinator: Any = None

    def start(self, host: str, port: int) -> None:
        """Starts proxies, coordinator and replicas, and waits for them.

        Raises:
            AdapterkitError: A replica or a proxy does not start.
        """
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        self._serve.start(http_options=self._http_options(host, port), logging_config=quiet)
        self._end_coordinators()
        self._coordinator = (
            self._ray.remote(Coordinator)
            .options(
                name=uuid4().hex,
                namespace=APPLICATION,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
            )
            .remote()
        )
        deployment = self._serve.deployment(
            self._serve.ingress()(Replica), **self._deployment_options()
        )
        application = deployment.bind(self._settings, Path.cwd(), self._coordinator)
        try:
            self._serve.run(application, name=APPLICATION, logging_config=quiet)
        except (RuntimeError, TimeoutError) as error:
            message = "\n".join([*self._failures(), str(error)])
            raise AdapterkitError(f"--engine ray: {cause_of(message)}") from None

    def _end_coordinators(self) -> None:
        """Ends those of services whose process was killed: another version may have written them,
        and nothing else would end them."""
        for actor in self._ray.util.list_named_actors(all_namespaces=True):
            if actor["namespace"] == APPLICATION:
                with suppress(ValueError):  # it has just ended
                    self._ray.kill(self._ray.get_actor(**actor))

    def _failures(self) -> list[str]:
        """What Ray Serve says of replicas that did not start, with their tracebacks."""
        application = self._serve.status().applications.get(APPLICATION)
        deployments = {} if application is None else application.deployments
        return [one.message for one in deployments.values() if one.message]

    def stop(self) -> None:
        """Lets the replicas answer what they have accepted, and ends what was started."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        lost = (
            self._ray.exceptions.RayError,
            self._serve.exceptions.RayServeException,
            TimeoutError,
        )
        try:
            self._serve.delete(APPLICATION)
        except lost as error:
            log.warning(f"not all requests were answered: {cause_of(str(error))}")
        with suppress(*lost):
            self._serve.shutdown()
            if self._coordinator is not None:
                self._ray.kill(self._coordinator)
        self._ray.shutdown()

    def _http_options(self, host: str, port: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            # A replica ends requests sooner. This is for those that wait for one.
            "request_timeout_s": BODY_SECONDS + self._settings.limits.timeout,
        }
        certificate, key = self._settings.ssl_certfile, self._settings.ssl_keyfile
        if certificate is not None:
            options["ssl_certfile"] = str(certificate.absolute())
            options["ssl_keyfile"] = str((key or certificate).absolute())
        return options

    def _deployment_options(self) -> dict[str, Any]:
        config = self._serve.config
        keys = self._settings.keys
        router = config.RequestRouterConfig(
            request_router_class=ROUTER,
            request_router_kwargs={
                "keys": None if keys is None else str(keys),
                "by_tenant": self._replicas.by_tenant,
            },
        )
        return {
            "name": "Replica",
            "ray_actor_options": {
                "num_cpus": self._replicas.cpus,
                "num_gpus": int(self._on_gpu),
            },
            "max_ongoing_requests": MOST_REQUESTS,
            "max_queued_requests": MOST_WAITING,
            "backpressure_config": {"status_code": 503, "retry_after_s": 1},
            "graceful_shutdown_wait_loop_s": 0.5,
            "graceful_shutdown_timeout_s": DRAIN_SECONDS,
            "health_check_period_s": HEALTH_SECONDS,
            "max_constructor_retry_count": STARTS,
            "request_router_config": router,
            **self._number(),
        }

    def _number(self) -> dict[str, Any]:
        replicas, config = self._replicas, self._serve.config
        if replicas.least == replicas.most:
            return {"num_replicas": replicas.least}
        target = replicas.target(self._settings, on_cpu=not self._on_gpu)
        with warnings.catch_warnings():  # the period will be an environment variable one day
            warnings.simplefilter("ignore")
            scaling = config.AutoscalingConfig(
                min_replicas=replicas.least,
                max_replicas=replicas.most,
                metrics_interval_s=replicas.period,
                look_back_period_s=replicas.window,
                upscale_delay_s=replicas.upscale_delay,
                downscale_delay_s=replicas.downscale_delay,
                policy=config.AutoscalingPolicy(
                    policy_function=SCALING, policy_kwargs={"target": target}
                ),
            )
        return {"autoscaling_config": scaling}


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Ends with exit code 143 on SIGTERM, after what was started on the cluster has ended."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        log.warning("ended by SIGTERM while loading; no request was accepted")
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_route(url: str) -> None:
    """Waits until the proxy of this machine, if it has one, knows where requests go."""
    end = time.monotonic() + ROUTE_SECONDS
    with suppress(httpx2.TransportError):
        while time.monotonic() < end:
            # The certificate need not name the address by which it is asked here.
            reply = httpx2.get(f"{url}/ready", verify=False)
            if reply.status_code != 404:
                return
            time.sleep(0.1)


def _wait_for_signal(facts: dict[str, Any]) -> None:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    log.info("listening", extra={"facts": facts})
    stopped.wait()
