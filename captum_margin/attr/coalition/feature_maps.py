"""A network's feature maps at every pixel of an image, for clustering."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._model.captum import target_outputs
from captum_margin._model.hooks import check_hooks, eager, layer_name
from captum_margin._model.layers import is_map, maps_shape, reshape_of

__all__ = ["full_resolution_features", "layer_features", "pyramid_features"]

_POOLS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.FractionalMaxPool2d,
    nn.modules.dropout._DropoutNd,
)
_HEAD = (nn.Flatten, nn.Linear)
#: They make no features: what they give is what they were given, with a frame.
_PADS = (
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
)


def layer_features(
    forward_func: Callable[..., Tensor],
    layers: list[nn.Module],
    image: Tensor,
    args: object = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """The outputs (1, K, h, w) of some layers in one forward pass of one image.

    What is no such map already is made one by ``reshape_transform``.

    Raises:
        ValueError: If a layer is not run, or its output is no feature map, or not
            finite.
    """
    for layer in layers:
        check_hooks(forward_func, layer)
    maps: dict[int, Any] = {}
    handles = [
        layer.register_forward_hook(
            # A copy: what follows may change it in place.
            lambda _m, _i, out, key=key: maps.__setitem__(
                key, out.clone() if isinstance(out, Tensor) else out
            )
        )
        for key, layer in enumerate(layers)
    ]
    try:
        with eager():
            target_outputs(forward_func, (image,), args)
    finally:
        for handle in handles:
            handle.remove()
    for key, layer in enumerate(layers):
        out = maps.get(key)
        if isinstance(out, Tensor) and reshape_transform is not None:
            out = maps[key] = reshape_transform(out)
        if not isinstance(out, Tensor) or not _is_feature_map(out, image):
            got = (
                "nothing: it is not run"
                if out is None
                else (
                    f"{tuple(out.shape)}"
                    if isinstance(out, Tensor)
                    else type(out).__name__
                )
            )
            raise ValueError(
                f"expected feature maps (B, K, h, w) from the layer "
                f"{type(layer).__name__} (got {got}); choose a convolutional layer, or "
                "pass reshape_transform=tokens_to_maps for layers of tokens or with "
                "channels last"
            )
    return [
        _checked(maps[key], layer_name(forward_func, layer))
        for key, layer in enumerate(layers)
    ]


def pyramid_features(
    forward_func: Callable[..., Tensor], image: Tensor, args: object = None
) -> list[Tensor]:
    """The last feature maps of each size within the network, in one forward pass.

    Tokens count as maps where an attention comes after them: behind the last one of a
    transformer nothing depends on any but the class token.

    Raises:
        ValueError: If the network is no Module or has no feature maps, or they are not
            finite.
    """
    last: dict[tuple[int, ...], tuple[nn.Module, Tensor]] = {}
    waiting: dict[tuple[int, ...], tuple[nn.Module, Tensor]] = {}
    size = tuple(image.shape[2:])

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if "attention" in type(module).__name__.lower():
            last.update(waiting)
        if not isinstance(output, Tensor) or len(output) != 1:
            return
        if is_map(tuple(output.shape), size):
            last[tuple(output.shape[2:])] = module, output
        else:
            shape = maps_shape(tuple(output.shape), size)
            if shape is not None:
                reshape = reshape_of(tuple(output.shape), shape)
                waiting[shape[2:]] = module, reshape(output)

    handles = [
        module.register_forward_hook(keep)
        for module in _modules(forward_func)
        if not isinstance(module, _PADS)
    ]
    try:
        with eager():
            target_outputs(forward_func, (image,), args)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise _no_trunk()
    return [
        _checked(maps, layer_name(forward_func, module))
        for module, maps in last.values()
    ]


def _checked(maps: Tensor, name: str) -> Tensor:
    """Maps in full precision.

    Raises:
        ValueError: If they are not finite.
    """
    if not torch.isfinite(maps).all():
        raise ValueError(
            f"expected finite feature maps from the layer {name!r} (got NaN or "
            f"infinity, {maps.dtype}); check the network and the scale of its inputs, "
            "or pass layer=, a layer whose output is finite, or feature_mask="
        )
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _is_feature_map(output: Tensor, image: Tensor) -> bool:
    """Whether it is (B, K, h, w), and not (B, h, w, K); a single place will do."""
    shape = tuple(output.shape)
    if len(shape) == 4 and min(shape[2:]) == 1:
        return True
    return is_map(shape, tuple(image.shape[2:]))


def full_resolution_features(
    forward_func: Callable[..., Tensor], image: Tensor, args: object = None
) -> list[Tensor]:
    """Feature maps (1, K, H, W) of the convolutional trunk without any pooling.

    The trunk's own convolutions run with stride 1, so that nothing is lost of the
    resolution; normalisations and activations stay, pooling and dropout are left out.
    It is given what the network gives it, such as the image normalised.

    Raises:
        ValueError: If the network has no sequential convolutional trunk, or its feature
            maps are not finite.
    """
    trunk, layers = _trunk(forward_func, image.shape[1])
    given: list[Tensor] = []
    # A copy: layers may change what they are given in place.
    handle = trunk.register_forward_pre_hook(lambda _m, i: given.append(i[0].clone()))
    try:
        with eager():
            target_outputs(forward_func, (image,), args)
    finally:
        handle.remove()
    if not given:
        raise _no_trunk()
    maps = given[0]
    for layer in layers:
        maps = layer(maps)
    if maps.shape[2:] != image.shape[2:]:
        raise _no_trunk()
    return [_checked(maps, layer_name(forward_func, trunk))]


def _trunk(
    forward_func: Callable[..., Tensor], channels: int
) -> tuple[nn.Sequential, list[nn.Module]]:
    """The first Sequential that reads the image, and copies of its layers."""
    for module in _modules(forward_func):
        if not isinstance(module, nn.Sequential):
            continue
        layers: list[nn.Module] = []
        for layer in module:
            if any(isinstance(part, _HEAD) for part in layer.modules()):
                break
            layers.append(layer)
        convolutions = [
            part
            for layer in layers
            for part in layer.modules()
            if isinstance(part, nn.Conv2d)
        ]
        if len(convolutions) > 1 and convolutions[0].in_channels == channels:
            return module, [_at_stride_one(copy.deepcopy(layer)) for layer in layers]
    raise _no_trunk()


def _at_stride_one(layer: nn.Module) -> nn.Module:
    """The layer, changed in place so that its output has the size of its input."""
    if isinstance(layer, _POOLS):
        return nn.Identity()
    for parent in layer.modules():
        for name, child in parent.named_children():
            if isinstance(child, _POOLS):
                setattr(parent, name, nn.Identity())
        if isinstance(parent, nn.Conv2d):
            parent.stride = (1, 1)
            parent.padding = "same"
    return layer


def _modules(forward_func: Callable[..., Tensor]) -> Iterator[nn.Module]:
    if not isinstance(forward_func, nn.Module) or any(
        isinstance(module, torch.jit.ScriptModule) for module in forward_func.modules()
    ):
        raise _no_trunk()
    return forward_func.modules()


def _no_trunk() -> ValueError:
    return ValueError(
        "cannot find the network's feature maps by itself: it is no Module, or no "
        "convolutional network whose layers could be followed; pass layer=, one of "
        "its layers whose output is (B, K, h, w), or feature_mask="
    )
