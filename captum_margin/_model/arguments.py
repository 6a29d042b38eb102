"""What users give: baselines, feature masks and models, checked and made ready."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from captum_margin._model.segments import is_image

__all__ = [
    "expand_baselines",
    "expand_feature_mask",
    "number_regions",
    "warn_of_training",
]


def expand_baselines(
    baselines: object, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One baseline of the shape, dtype and device of each input.

    By default an image's is its mean colour, another input's is zero.

    Raises:
        AssertionError: If there is not one baseline an input, of a type Captum takes.
        ValueError: If a baseline cannot be broadcast to its input, or is of values that
            the input's dtype has not.
    """
    if baselines is None:
        return tuple(
            (
                tensor.mean(dim=(2, 3), keepdim=True)
                if is_image(tensor)
                else tensor.new_zeros(())
            ).expand_as(tensor)
            for tensor in inputs
        )
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    assert len(given) == len(inputs), (
        f"expected one baseline for each of the {len(inputs)} inputs (got {len(given)})"
    )
    expanded = []
    for baseline, tensor in zip(given, inputs, strict=True):
        assert isinstance(baseline, (int, float, Tensor)), (
            "expected baselines to be numbers or tensors "
            f"(got {type(baseline).__name__})"
        )
        if isinstance(baseline, Tensor) and baseline.layout != torch.strided:
            raise ValueError(
                f"expected dense baselines (got {baseline.layout}); call .to_dense()"
            )
        if not torch.isfinite(torch.as_tensor(baseline)).all():
            raise ValueError("expected finite baselines (got NaN or infinity)")
        baseline = _of_dtype(baseline, tensor.dtype).to(tensor.device)
        try:
            expanded.append(baseline.expand_as(tensor))
        except RuntimeError:
            raise ValueError(
                f"expected a baseline that broadcasts to {tuple(tensor.shape)} "
                f"(got {tuple(baseline.shape)}); a number, or (1, C, 1, 1), is enough"
            ) from None
    return tuple(expanded)


def _of_dtype(given: float | Tensor, dtype: torch.dtype) -> Tensor:
    """A baseline of the inputs' dtype.

    Raises:
        ValueError: If it holds values that the dtype has not.
    """
    baseline = given
    if not isinstance(baseline, Tensor):  # exact, whatever the default dtype is
        exact = torch.float64 if isinstance(baseline, float) else None
        baseline = torch.as_tensor(baseline, dtype=exact)
    converted = baseline.to(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        kept = bool(torch.isfinite(converted).all())
    else:
        kept = torch.equal(converted.to(baseline.dtype), baseline)
    if not kept:
        raise ValueError(
            f"expected baselines that the inputs' {dtype} can hold (got "
            f"{textwrap.shorten(str(baseline.tolist()), 60)}, which it rounds or "
            "cannot reach); a baseline of token ids is an id"
        )
    return converted


def expand_feature_mask(
    feature_mask: Tensor | tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One mask an input, with a batch axis of 1 or B and an input's other axes.

    Under ``sensitivity_max`` the inputs are repeated but the masks are not; masks of
    a divisor of the batch are repeated likewise.

    Raises:
        AssertionError: If there is not one mask an input, as a tensor.
        ValueError: If a mask cannot be broadcast to its input.
    """
    given = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    assert len(given) == len(inputs), (
        f"expected one feature mask for each of the {len(inputs)} inputs "
        f"(got {len(given)})"
    )
    expanded = []
    for mask, tensor in zip(given, inputs, strict=True):
        assert isinstance(mask, Tensor), (
            f"expected feature_mask to be a tensor (got {type(mask).__name__}); "
            "several scales come from segmentation_func"
        )
        if mask.layout != torch.strided:
            raise ValueError(
                f"expected a dense feature_mask (got {mask.layout}); call .to_dense()"
            )
        if mask.is_floating_point() and not bool(
            (mask.isfinite() & (mask == mask.trunc())).all()
        ):
            raise ValueError(
                "expected the numbers of features in feature_mask, whole ones (got "
                "fractions, NaN or infinity); it says which feature an element is of"
            )
        shape = tuple(mask.shape)
        mask = mask.to(tensor.device, torch.int64)
        mask = mask.view(*[1] * (tensor.dim() - mask.dim()), *mask.shape)
        size = len(tensor)
        if mask.shape[0] not in (1, size) and size % mask.shape[0] == 0:
            mask = mask.repeat_interleave(size // mask.shape[0], dim=0)
        try:
            mask.expand_as(tensor)
        except RuntimeError:
            raise ValueError(
                f"expected a feature mask that broadcasts to {tuple(tensor.shape)} "
                f"(got {shape}), as for captum.attr.FeatureAblation"
            ) from None
        expanded.append(mask)
    return tuple(expanded)


def number_regions(masks: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
    """Numbers regions 0 to R - 1 through all masks of an example, whatever their ids.

    Returns:
        tuple: The numbered masks and R.
    """
    flat = torch.cat([mask.reshape(-1) for mask in masks])
    ids, numbered = flat.unique(return_inverse=True)
    parts = numbered.split([mask.numel() for mask in masks])
    return tuple(
        part.view_as(mask) for part, mask in zip(parts, masks, strict=True)
    ), len(ids)


def warn_of_training(forward_func: Callable[..., Tensor]) -> None:
    """Captum leaves the mode alone, so that such a model is changed by being asked."""
    if isinstance(forward_func, torch.nn.Module) and any(
        module.training and isinstance(module, (_BatchNorm, _DropoutNd))
        for module in forward_func.modules()
    ):
        warnings.warn(
            "the model is in train mode: dropout makes its scores random and every "
            "forward pass moves its batch statistics; call model.eval() first",
            stacklevel=3,
        )
