"""Options that several commands have: one name, one meaning, one help."""

from __future__ import annotations

from typing import Annotated

import typer

from .geometry import Device, Dtype, Quantization

JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Dtype of the frozen weights.")]
QuantizationOption = Annotated[
    Quantization, typer.Option("--quantization", help="Quantise the frozen linears.")
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="auto is the GPU where there is one.")
]
