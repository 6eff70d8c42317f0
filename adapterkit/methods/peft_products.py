"""PEFT's methods that change nothing but weights, as products of two matrices.

Each of these methods replaces a frozen weight W by W + D, where D is a function of trained tensors,
and sometimes of W. Any D is a product of two matrices, with at most as many inner dimensions as its
smaller side has. So an adapter of any of these methods is an exact LoRA adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .peft_folder import PeftFolder
from .peft_lora import lora_product
from .peft_module import PeftModule
from .peft_settings import check_settings
from .product import Product


@dataclass(frozen=True)
class ProductKind:
    """One of PEFT's methods whose change of a weight is a product of two matrices.

    Attributes:
        tensors: Last parts of the names of its tensors.
        settings: Settings that `product` reads, or that only training reads; all others must be
            switched off.
        product: Returns the change of a module.
    """

    tensors: frozenset[str]
    settings: frozenset[str]
    product: Callable[[PeftModule], Product]


def read_modules(folder: PeftFolder) -> dict[str, PeftModule]:
    """Every linear that a folder changes, by its path in the model.

    Args:
        folder: A folder whose `peft_type` is one of `PRODUCT_KINDS`.

    Raises:
        ValueError: A tensor is not known, or belongs to no linear of the backbone.
    """
    kind = PRODUCT_KINDS[folder.config["peft_type"]]
    shared = {name: tensor.float() for name, tensor in folder.tensors.items() if "." not in name}
    return {
        path: PeftModule(
            path,
            tensors,
            shared,
            folder.config,
            folder.shape(path),
            partial(folder.frozen_weight, path),
        )
        for path, tensors in folder.modules(kind.tensors).items()
    }


def read_products(folder: PeftFolder) -> dict[str, Product]:
    """The change of every linear that a folder changes, by its path in the model.

    Args:
        folder: A folder whose `peft_type` is one of `PRODUCT_KINDS`.

    Raises:
        ValueError: A setting or a tensor is not supported, or one is missing.
    """
    kind = PRODUCT_KINDS[folder.config["peft_type"]]
    check_settings(folder.config, kind.settings)
    products = {}
    for path, module in read_modules(folder).items():
        product = kind.product(module)
        module.check_shape(len(product.up), product.down.shape[-1])
        if product.up.shape[-1] != len(product.down):
            raise ValueError(f"'{path}': the matrices of the product have different ranks")
        products[path] = product.narrow()
    return products


def _adalora(module: PeftModule) -> Product:
    """AdaLoRA (Zhang et al. 2023): a product with a trained diagonal, whose rank was reduced."""
    down, diagonal, up = (module.tensor(name) for name in ("lora_A", "lora_E", "lora_B"))
    alpha, rank = float(module.setting("lora_alpha")), float(module.setting("init_r"))
    scale = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    return Product(down * diagonal, up, scale)


def _vera(module: PeftModule) -> Product:
    """VeRA (Kopiczko et al. 2023): two frozen random matrices of all modules, scaled by vectors."""
    if not {"vera_A", "vera_B"} <= module.shared.keys():
        raise ValueError(
            "save_projection is false, so the random matrices are not in the weights; save the "
            "adapter again with save_projection true"
        )
    n_out, n_in = module.shape
    down, up = module.shared["vera_A"][:, :n_in], module.shared["vera_B"][:n_out]
    inner, outer = module.tensor("vera_lambda_d"), module.tensor("vera_lambda_b")
    return Product(down * inner[:, None], up * outer[:, None])


def _loha(module: PeftModule) -> Product:
    """LoHa (Hyeon-Woo et al. 2021): the elementwise product of two products of rank r.

    It is a product of rank r * r, whose factors are the products of all pairs of columns.
    """
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    up1, down1, up2, down2 = (module.tensor(name) for name in names)
    for up, down in ((up1, down1), (up2, down2)):
        module.check_shape(len(up), down.shape[-1])
    if len(down1) * len(down2) > min(module.shape):
        return Product.of((up1 @ down1) * (up2 @ down2) * _ratio(module))
    up = torch.einsum("oi,oj->oij", up1, up2).flatten(1)
    down = torch.einsum("in,jn->ijn", down1, down2).flatten(0, 1)
    return Product(down, up, _ratio(module))


def _lokr(module: PeftModule) -> Product:
    """LoKr (Yeh et al. 2023): the Kronecker product of two matrices, each perhaps a product."""
    names = (
        [name] if name in module.tensors else [f"{name}_a", f"{name}_b"]
        for name in ("lokr_w1", "lokr_w2")
    )
    left, right = ([module.tensor(name) for name in parts] for parts in names)
    module.check_shape(len(left[0]) * len(right[0]), left[-1].shape[-1] * right[-1].shape[-1])
    whole = (parts[0] if len(parts) == 1 else parts[0] @ parts[1] for parts in (left, right))
    return Product.of(torch.kron(*whole) * _ratio(module))


def _ratio(module: PeftModule) -> float:
    """alpha / r of LoHa and LoKr."""
    alpha = float(module.setting("alpha", "alpha_pattern"))
    return alpha / float(module.setting("r", "rank_pattern"))


def _c3a(module: PeftModule) -> Product:
    """C3A (Chen et al. 2024): a weight of circulant blocks, each given by one row."""
    kernel = module.tensor("c3a_kernel")  # [blocks out, blocks in, size]
    size = kernel.shape[-1]
    module.check_shape(kernel.shape[0] * size, kernel.shape[1] * size)
    shift = torch.arange(size)
    blocks = kernel[:, :, (shift - shift[:, None]) % size]  # [out, in, size, size]
    delta = blocks.permute(0, 2, 1, 3).reshape(module.shape)
    return Product.of(delta / module.shape[1])


def _delora(module: PeftModule) -> Product:
    """DeLoRA (Bini et al. 2025): rank-one products of length one, with a trained strength."""
    down, up = module.tensor("delora_A"), module.tensor("delora_B")
    lengths = down.norm(dim=1).clamp(min=1e-4) * up.norm(dim=0).clamp(min=1e-4)
    strength = module.tensor("delora_lambda") / len(down)
    norms = module.tensors.get("delora_w_norm")
    norms = module.weight().norm(dim=0) if norms is None else norms
    return Product(down * norms, up * (strength / lengths))


def _vblora(module: PeftModule) -> Product:
    """VB-LoRA (Li et al. 2024): factors whose parts are mixed from one bank of vectors."""
    bank, topk = module.shared["vblora_vector_bank"], int(module.setting("topk"))

    def mixed(name: str, width: int) -> Tensor:
        """[r, tiles, v] for an A, [tiles, r, v] for a B."""
        if f"{name}_topk_indices" in module.tensors:
            indices = module.tensor(f"{name}_topk_indices").long()
            weights = module.tensor(f"{name}_topk_weights")
            weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
        else:
            logits, indices = module.tensor(name).topk(topk)
            weights = logits.softmax(-1)
        if indices[..., 0].numel() * bank.shape[1] > width * min(module.shape):
            raise ValueError(f"'{module.path}': {name} is larger than any product needs")
        found = torch.zeros(*indices.shape[:-1], bank.shape[1])
        for index, weight in zip(indices.unbind(-1), weights.unbind(-1), strict=True):
            found += weight[..., None] * bank[index]
        return found

    n_out, n_in = module.shape
    down = mixed("vblora_logits_A", n_in).flatten(1)
    up = mixed("vblora_logits_B", n_out).transpose(1, 2).flatten(0, 1)
    return Product(down, up)


def _fourierft(module: PeftModule) -> Product:
    """FourierFT (Gao et al. 2024): some coefficients of the weight's Fourier transform.

    Their places are drawn from a seed of the settings, as PEFT draws them.
    """
    spectrum, (n_out, n_in) = module.tensor("fourierft_spectrum"), module.shape
    seed = torch.Generator().manual_seed(int(module.setting("random_loc_seed")))
    places = torch.randperm(n_out * n_in, generator=seed)[: len(spectrum)]
    dense = torch.zeros(n_out * n_in)
    dense[places] = spectrum
    delta = torch.fft.ifft2(dense.view(n_out, n_in)).real * float(module.setting("scaling"))
    return Product.of(delta)


def _hra(module: PeftModule) -> Product:
    """HRA (Yuan et al. 2024): a chain of reflections of what enters the weight."""
    vectors = torch.nn.functional.normalize(module.tensor("hra_u"), dim=0)  # [in, r]
    frozen = module.weight()
    changed = frozen
    if vectors.shape[1] > module.shape[1]:
        raise ValueError(f"'{module.path}': {vectors.shape[1]} reflections, more than inputs")
    for vector in vectors.T:
        changed = changed - 2 * torch.outer(changed @ vector, vector)
    return Product.of(changed - frozen)


def _shira(module: PeftModule) -> Product:
    """SHiRA (Bhardwaj et al. 2024): some entries of the weight."""
    rows, columns = module.tensor("shira_indices").long()
    delta = torch.zeros(module.shape)
    delta.index_put_((rows, columns), module.tensor("shira_weight"), accumulate=True)
    return Product.of(delta)


def _kind(
    product: Callable[[PeftModule], Product], tensors: str, settings: str = "", training: str = ""
) -> ProductKind:
    return ProductKind(
        frozenset(tensors.split()), frozenset((*settings.split(), *training.split())), product
    )


PRODUCT_KINDS: Mapping[str, ProductKind] = {
    "LORA": _kind(
        lora_product,
        "lora_A.weight lora_B.weight lora_magnitude_vector",
        "r lora_alpha use_rslora rank_pattern alpha_pattern init_lora_weights use_dora",
        "lora_dropout eva_config corda_config loftq_config lora_ga_config megatron_config "
        "megatron_core runtime_config ensure_weight_tying qalora_group_size",
    ),
    "ADALORA": _kind(
        _adalora,
        "lora_A lora_B lora_E",
        "init_r lora_alpha",
        "lora_dropout r rank_pattern target_r tinit tfinal deltaT beta1 beta2 orth_reg_weight "
        "total_step init_lora_weights loftq_config eva_config corda_config lora_ga_config "
        "megatron_config megatron_core runtime_config ensure_weight_tying qalora_group_size",
    ),
    "VERA": _kind(
        _vera,
        "vera_lambda_d vera_lambda_b",
        "r save_projection projection_prng_key",
        "vera_dropout d_initial",
    ),
    "LOHA": _kind(
        _loha,
        "hada_w1_a hada_w1_b hada_w2_a hada_w2_b",
        "r alpha rank_pattern alpha_pattern",
        "rank_dropout module_dropout use_effective_conv2d",
    ),
    "LOKR": _kind(
        _lokr,
        "lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b",
        "r alpha rank_pattern alpha_pattern",
        "rank_dropout rank_dropout_scale module_dropout use_effective_conv2d decompose_both "
        "decompose_factor",
    ),
    "C3A": _kind(_c3a, "c3a_kernel", "block_size block_size_pattern"),
    "DELORA": _kind(
        _delora,
        "delora_A delora_B delora_lambda delora_w_norm",
        "r rank_pattern lambda_pattern",
        "delora_lambda module_dropout",
    ),
    "VBLORA": _kind(
        _vblora,
        "vblora_logits_A vblora_logits_B vblora_logits_A_topk_indices vblora_logits_A_topk_weights "
        "vblora_logits_B_topk_indices vblora_logits_B_topk_weights",
        "r topk num_vectors vector_length save_only_topk_weights",
        "vblora_dropout init_vector_bank_bound init_logits_std",
    ),
    "FOURIERFT": _kind(
        _fourierft,
        "fourierft_spectrum",
        "n_frequency n_frequency_pattern scaling random_loc_seed",
    ),
    "HRA": _kind(_hra, "hra_u", "r"),
    "SHIRA": _kind(_shira, "shira_weight shira_indices", "r", "mask_type random_seed"),
}
"""The methods by PEFT's `peft_type`."""
