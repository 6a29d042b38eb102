"""Grad-CAM and the slope in the pixels, as first guesses for methods that go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._model.captum import (
    TargetType,
    layer_gradients,
    select_targets,
    target_outputs,
)
from captum_margin._model.forward_args import plain_args
from captum_margin._model.layers import layer_of_maps

__all__ = ["GRAD_CAM_PASSES", "SLOPE_PASSES", "grad_cam", "slope_in_pixels"]

#: Forward passes of each example: one finds the layer, one (and back) makes the map.
GRAD_CAM_PASSES = 2
#: And of the slope, one and back.
SLOPE_PASSES = 1


def grad_cam(
    model: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target: TargetType,
    additional_forward_args: object = None,
) -> Tensor:
    """Grad-CAM of a network that is otherwise a black box, without the rectifier.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", ICCV 2017 (https://arxiv.org/abs/1610.02391), at
    :func:`~captum_margin.attr.last_conv_layer`, or at the tokens that go into the last
    attention of a transformer. Parameters may be frozen and the caller may be under
    ``no_grad`` or ``inference_mode``; no ``.grad`` is touched.

    Args:
        model (Module): The network.
        inputs (tuple[Tensor, ...]): Images, (B, C, H, W).
        target (int, tuple, Tensor or list, optional): As in Captum.
        additional_forward_args (Any, optional): As in Captum. Default: None

    Returns:
        Tensor: The sum of the channels by their mean gradients, (B, 1, h, w).

    Raises:
        ValueError: If the model is no Module, or has no such layer.

    Cost: :data:`GRAD_CAM_PASSES` forward passes and one backward pass.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            'expected forward_func as a Module for prior="gradcam" (got a '
            f"{type(model).__name__}, which hides its layers); pass a map as prior"
        )

    def score(*arguments: Any) -> Tensor:
        images, args = arguments[: len(inputs)], arguments[len(inputs) :]
        return _score(model, images, args, target)

    # Captum looks here for the order of the devices.
    score.device_ids = getattr(model, "device_ids", None)  # type: ignore[attr-defined]
    with torch.inference_mode(False):
        inputs = tuple(tensor.clone() for tensor in inputs)  # for in-place models
        args = plain_args(additional_forward_args, len(inputs[0]))
        args = None if args is None else tuple(map(_outside_inference, args))
        try:
            (_, layer, _), reshape = layer_of_maps(model, inputs, args)
        except ValueError as error:
            raise ValueError(
                f'prior="gradcam" needs a last layer of maps: {error}; or pass a map '
                "as prior, another method's or a person's"
            ) from error
        (gradients,), (maps,) = layer_gradients(score, layer, inputs, args)
        if reshape is not None:
            gradients, maps = reshape(gradients), reshape(maps)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(dim=1, keepdim=True).detach()


def slope_in_pixels(
    model: Callable[..., Tensor],
    images: Tensor,
    target: TargetType,
    additional_forward_args: object = None,
) -> Tensor:
    """Gradient of the target's score in images, of their shape.

    Modes and parameters are left alone as by :func:`grad_cam`. Zeros where the score
    has no gradient in the pixels.

    Args:
        model (Callable): The network.
        images (Tensor): Its only input, (B, C, H, W).
        target (int, tuple, Tensor or list, optional): As in Captum.
        additional_forward_args (Any, optional): As in Captum. Default: None

    Cost: :data:`SLOPE_PASSES` forward passes and one backward pass.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        args = plain_args(additional_forward_args, len(pixels))
        args = None if args is None else tuple(map(_outside_inference, args))
        # A copy, for models that change their input in place.
        output = _score(model, (pixels.clone(),), args, target)
        if not output.requires_grad:
            return torch.zeros_like(pixels)
        (slope,) = torch.autograd.grad(output.sum(), pixels, allow_unused=True)
    return torch.zeros_like(pixels) if slope is None else slope.detach()


def _score(
    model: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    args: object,
    target: TargetType,
) -> Tensor:
    """The target's score of each row."""
    return select_targets(target_outputs(model, inputs, args), target, len(inputs[0]))


def _outside_inference(argument: Any) -> Any:
    """The same tensor, fit for autograd."""
    if isinstance(argument, Tensor) and argument.is_inference():
        return argument.clone()
    return argument
