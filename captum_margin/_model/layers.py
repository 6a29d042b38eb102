"""Which layer to explain, and layers of tokens as maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_margin._model.failures import refusals_explained
from captum_margin._model.forward_args import plain_args
from captum_margin._model.hooks import check_hooks, eager, uncompiled
from captum_margin._model.segments import check_layout

__all__ = [
    "ConvLayer",
    "is_map",
    "last_conv_layer",
    "layer_of_maps",
    "maps_shape",
    "output_shapes",
    "tokens_to_maps",
]

# They make no features: what they give is what they were given, coarser.
_POOLS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.FractionalMaxPool2d,
    nn.Identity,
    nn.modules.dropout._DropoutNd,
)


class ConvLayer(NamedTuple):
    """A layer whose output has an extent in space: :func:`last_conv_layer`.

    Args:
        name (str): Its name in the model.
        layer (Module): The layer.
        shape (tuple[int, ...]): Of its output, (B, K, h, w).
    """

    name: str
    layer: nn.Module
    shape: tuple[int, ...]


def last_conv_layer(
    model: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> ConvLayer:
    """Finds the last layer of a network that still has an extent in space.

    It is the last in the order of a forward pass whose output is (B, K, h, w), with h
    and w above 1 and in the proportion of the image, so that tokens and outputs with
    channels last do not count. A block counts as one layer and comes after what is in
    it: the result is the whole of ``layer4`` (ResNet) or ``features`` (VGG, DenseNet),
    with activation and pooling. Left out are single pooling and dropout layers, and
    maps of the classes themselves (SqueezeNet's head), which are scores already.

    Args:
        model (Module): The network; a function hides its layers.
        inputs (Tensor or tuple[Tensor, ...]): What it takes; one example is enough.
        additional_forward_args (Any, optional): As in Captum. Default: None

    Returns:
        ConvLayer: Name, module and shape of the output.

    Raises:
        ValueError: If there is no such layer, or the network is a transformer whose
            only maps are its patches before the first block: then name a layer, see
            :func:`tokens_to_maps`.

    Cost: one forward pass.

    Examples::

        >>> import torch
        >>> from captum.attr import LayerGradCam
        >>> from captum_margin.attr import last_conv_layer
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Flatten(), nn.Linear(8 * 7 * 7, 2))
        >>> image = torch.rand(1, 3, 16, 16)
        >>> name, layer, shape = last_conv_layer(net, image)
        >>> name, shape
        ('1', (1, 8, 14, 14))
        >>> LayerGradCam(net, layer).attribute(image, target=0).shape
        torch.Size([1, 1, 14, 14])
    """
    layer, reshape = layer_of_maps(model, inputs, additional_forward_args)
    if reshape is not None:
        raise ValueError(
            "cannot choose a layer by itself: the network's maps come before its "
            "layers of tokens, as in a transformer; pass "
            f"layer=model.get_submodule({layer.name!r}) or another layer of tokens, "
            "and reshape_transform=tokens_to_maps"
        )
    return layer


def layer_of_maps(
    model: Callable[..., Tensor],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
) -> tuple[ConvLayer, Callable[[Tensor], Tensor] | None]:
    """As :func:`last_conv_layer`; in a transformer the last layer that it would name.

    Returns:
        tuple: The layer, with the shape of its maps; and what makes them of its output,
        :func:`tokens_to_maps`, or None where they are its output.
    """
    check_hooks(model)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    shapes_in = [tuple(getattr(tensor, "shape", ())) for tensor in tensors]
    size = next((shape[2:] for shape in shapes_in if len(shape) == 4), None)
    if not isinstance(model, nn.Module) or size is None:
        raise ValueError(
            "cannot choose a layer by itself: expected a Module and images "
            f"(B, C, H, W) (got {type(model).__name__} and "
            f"{shapes_in}); pass layer="
        )
    check_layout(next(tensor for tensor in tensors if tensor.dim() == 4))
    model = uncompiled(model)
    shapes, output = output_shapes(model, tensors, additional_forward_args)
    modules = dict(model.named_modules())
    place = {name: i for i, name in enumerate(shapes)}
    maps = [name for name, shape in shapes.items() if shape and is_map(shape, size)]
    last_learnt = max(
        (i for name, i in place.items() if _learns(modules[name])),
        default=-1,
    )

    def serves(name: str) -> bool:
        if isinstance(modules[name], _POOLS):
            return False
        of_classes = len(output) > 1 and shapes[name][1] == output[1]
        return place[name] < last_learnt or not of_classes

    found = [name for name in maps if serves(name)]
    convolutions = [name for name in maps if isinstance(modules[name], nn.Conv2d)]
    tokens = [
        name
        for name, shape in shapes.items()
        if len(shape) in (3, 4) and name not in maps and min(shape[1:3]) > 1
    ]
    if found and tokens and place[tokens[-1]] > place[found[-1]]:
        # A patch embedding, or a convolutional stem, and attention comes after it.
        attends = any(place[name] > place[found[-1]] for name in _attentions(shapes))
        if len(convolutions) <= 1 or attends:
            name = _before_attention(list(shapes), tokens)
            shape = maps_shape(shapes[name], size) or shapes[name]
            return ConvLayer(name, modules[name], shape), tokens_to_maps
    if not found:
        raise ValueError(
            "cannot choose a layer by itself: no layer of the model has maps "
            "(B, K, h, w); pass layer="
        )
    return ConvLayer(found[-1], modules[found[-1]], shapes[found[-1]]), None


def tokens_to_maps(values: Tensor) -> Tensor:
    """Tokens of a transformer as maps: a ``reshape_transform``.

    Args:
        values (Tensor): Tokens (B, T, K) of a square image, row by row, the class token
            and others that are no places first (ViT, DeiT, DINOv2); or maps with
            channels last, (B, h, w, K) (Swin).

    Returns:
        Tensor: Maps, (B, K, h, w).

    Raises:
        ValueError: If it is neither.

    Cost: none, the result is a view of the tokens.

    The class token is all that the head of a ViT reads of its last block: no score
    depends on the other tokens there. So explain the layer that goes into its last
    attention, such as ``model.encoder.layers[-1].ln_1`` of torchvision's.

    Examples::

        >>> import torch
        >>> from captum_margin.attr import tokens_to_maps
        >>> tokens_to_maps(torch.rand(2, 1 + 14 * 14, 768)).shape
        torch.Size([2, 768, 14, 14])
        >>> tokens_to_maps(torch.rand(2, 7, 7, 768)).shape
        torch.Size([2, 768, 7, 7])
    """
    if values.dim() == 3:
        side = math.isqrt(values.shape[1])
        places = values[:, values.shape[1] - side * side :]
        values = places.unflatten(1, (side, side))
    if values.dim() != 4:
        raise ValueError(
            "expected tokens (B, T, K), or maps with channels last (B, h, w, K) (got "
            f"{tuple(values.shape)}); pass a reshape_transform of your own"
        )
    return values.permute(0, 3, 1, 2)


def is_map(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether an output looks like maps (B, K, h, w) of images of a size (H, W).

    Channels may be last instead: the axes that are in the proportion of the image
    are those of space.
    """
    if len(shape) != 4 or min(shape[2:]) < 2:
        return False
    first = abs(shape[2] / size[0] - shape[3] / size[1])
    last = abs(shape[1] / size[0] - shape[2] / size[1])
    return first <= last


def maps_shape(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that :func:`tokens_to_maps` gives an output; None if it is no tokens.

    Args:
        shape (tuple[int, ...]): Of the output.
        size (tuple[int, ...]): Of the images, (H, W).
    """
    if len(shape) == 3:
        side = math.isqrt(shape[1])
        return (shape[0], shape[2], side, side) if side > 1 else None
    if len(shape) == 4 and shape[1] > 1 and shape[1] * size[1] == shape[2] * size[0]:
        return (shape[0], shape[3], shape[1], shape[2])
    return None


def output_shapes(
    model: nn.Module, inputs: tuple[Tensor, ...], args: object = None
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """What the modules and the model itself give in one forward pass.

    Returns:
        tuple: The shapes of the modules' outputs by name, in the order in which they
        come (of several uses the last), and the shape of the model's own output; () for
        what is no tensor.
    """
    extra = plain_args(args) or ()
    names = {module: name for name, module in model.named_modules() if name}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, output: object) -> None:
        shapes.pop(names[module], None)
        shapes[names[module]] = _shape(output)

    handles = [
        module.register_forward_hook(lambda module, _, output: note(module, output))
        for module in names
    ]
    try:
        with torch.no_grad(), eager(), refusals_explained(model, inputs):
            # Copies, for models that change their input.
            output = model(*(tensor.clone() for tensor in inputs), *extra)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, _shape(output)


def _shape(output: object) -> tuple[int, ...]:
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _learns(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _before_attention(ran: list[str], tokens: list[str]) -> str:
    """The last layer of tokens that an attention comes after."""
    attentions = _attentions(ran)
    before = [
        name
        for name in tokens
        if attentions and ran.index(name) < ran.index(attentions[-1])
    ]
    return (before or tokens)[-1]


def _attentions(names: Iterable[str]) -> list[str]:
    """Modules that are called attention, in the order in which they ran."""
    own = ((name, name.rpartition(".")[2]) for name in names)
    return [name for name, last in own if "attn" in last or "attention" in last]
