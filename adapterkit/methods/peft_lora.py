"""LoRA as PEFT writes it, with the options that change what its product means.

PEFT takes a first product away from the frozen weight for some initialisations, and scales the rows
of the changed weight for DoRA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .initial_product import INITIAL_PRODUCTS
from .peft_module import PeftModule
from .product import Product

KEEPS_BASE: tuple[Any, ...] = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations of LoRA that leave the frozen weights as they are."""


def lora_product(module: PeftModule) -> Product:
    """LoRA (Hu et al. 2021), also from PiSSA and OLoRA, and with magnitudes (DoRA).

    Raises:
        ValueError: A tensor or a setting is missing or not supported.
    """
    down, up = _down(module), module.tensor("lora_B.weight")
    module.check_shape(len(up), down.shape[-1])
    product = _less_initial_product(module, Product(down, up, lora_scale(module)))
    if not module.config.get("use_dora"):
        return product
    # DoRA (Liu et al. 2024): the rows of the new weight are scaled to trained lengths.
    magnitude = module.tensor("lora_magnitude_vector").flatten()
    frozen = module.weight()
    changed = frozen + product.delta
    lengths = torch.linalg.norm(changed, dim=1)
    return Product.of(changed * (magnitude / lengths)[:, None] - frozen)


def lora_scale(module: PeftModule) -> float:
    """Factor on the product of a LoRA.

    Raises:
        ValueError: The folder has no alpha, or no product for the module.
    """
    alpha, rank = float(module.setting("lora_alpha", "alpha_pattern")), len(_down(module))
    return alpha / (math.sqrt(rank) if module.config.get("use_rslora") else rank)


def _down(module: PeftModule) -> Tensor:
    return module.tensor("lora_A.weight")


def initialisation(config: Mapping[str, Any]) -> Any:
    """How the product of a LoRA was initialised.

    Args:
        config: The content of `adapter_config.json`.
    """
    name = config.get("init_lora_weights", True)
    return name.lower() if isinstance(name, str) else name


def _less_initial_product(module: PeftModule, product: Product) -> Product:
    """A product less the one that PEFT took from the frozen weight at the start.

    PEFT repeats that whenever it loads the adapter. Only initialisations without random numbers can
    be repeated here: PiSSA by the exact singular values, and OLoRA.

    Raises:
        ValueError: The initialisation changed the frozen weights in a way that is not known here.
    """
    name = initialisation(module.config)
    down, up, scale = product
    if name in KEEPS_BASE:
        return product
    if module.config.get("use_dora"):
        raise ValueError(f"init_lora_weights = {name!r:.80} with use_dora is not supported")
    if name not in INITIAL_PRODUCTS:
        raise ValueError(
            f"init_lora_weights = {name!r:.80} changed the frozen weights in a way that cannot be "
            "repeated here; save it again with path_initial_model_for_weight_conversion"
        )
    first = INITIAL_PRODUCTS[name](module.weight(), len(down), scale)
    return Product(torch.cat([down, first.down]), torch.cat([up, -first.up], dim=1), scale)
