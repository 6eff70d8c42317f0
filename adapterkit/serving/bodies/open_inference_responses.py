"""The bodies of successful responses of the Open Inference Protocol."""

from __future__ import annotations

from pydantic import Field

from .responses import MISSING, ResponseBody


class ServerMetadata(ResponseBody):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class Live(ResponseBody):
    """Whether the process is alive."""

    live: bool


class Ready(ResponseBody):
    """Whether the server accepts requests."""

    ready: bool


class ModelReady(Ready):
    """Whether an adapter can be used."""

    name: str


class VersionReady(ModelReady):
    """Whether a version of an adapter can be used."""

    version: str


class TensorMetadata(ResponseBody):
    """A tensor without its data."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(ResponseBody):
    """The inputs and outputs of an adapter."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """A tensor with a value for each row."""

    data: list[str] | list[float]


class InferResponse(ResponseBody):
    """The outputs of an adapter."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = Field(MISSING, description="That of the request")
