"""Coalitions: the regions of an image whose deep features belong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_margin._model.captum import format_inputs, select_rows
from captum_margin._model.layouts import check_layout
from captum_margin._model.precision import full_precision
from captum_margin._whole_numbers import whole_number
from captum_margin.attr.coalition.feature_maps import (
    full_resolution_features,
    layer_features,
    pyramid_features,
)

__all__ = ["continuity_loss", "feature_coalitions", "similarity_loss"]

#: Directions kept of each feature map: nearly all of its variance.
_DIRECTIONS = 16
#: Features that differ by no more than this times their precision are the same.
_ROUNDING = 8
#: A smaller share of the largest variance is none but rounding, in float64.
_NO_VARIANCE = 1e-12
_MOMENTUM, _RATE, _EPSILON = 0.9, 0.1, 1e-5
#: Pixels of the longer side on which responses are learnt, before they are enlarged.
_SIDE = 112


@torch.inference_mode(False)  # where gradients cannot be had at all
@torch.no_grad()
@full_precision()
def feature_coalitions(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    layer: nn.Module | list[nn.Module] | None = None,
    additional_forward_args: object | None = None,
    *,
    n_coalitions: int = 16,
    n_clusters: int = 32,
    paper: bool = False,
    resolution: Literal["pyramid", "full"] | None = None,
    n_steps: int = 100,
    continuity: float = 1.0,
    seed: int = 0,
    show_progress: bool = False,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Divides images into regions of like deep features.

    The features of every pixel go through a linear map to :math:`\ell` responses
    and a batch normalisation over the pixels of the image, r. The map is learnt anew
    for each image (Hu et al. 2024; the losses are those of Kim, Kanezaki and Tanaka,
    https://arxiv.org/abs/2007.09990): each pixel n is drawn to the response that is
    its largest, :math:`c_n = \arg\max_j r_{nj}`, and neighbours to each other,

    .. math:: -\frac{1}{N} \sum_n \log \operatorname{softmax}(r_n)_{c_n}
        + \mu \big( \overline{|\nabla_x r|} + \overline{|\nabla_y r|} \big),

    until ``n_coalitions`` responses are left that are anywhere the largest, or the
    steps are done; then the most frequent are kept, and the pixels of the others go to
    the one of these that is largest there. The features stay as the network has them,
    so that one forward pass is all that it costs the network; each feature map is
    reduced to its 16 principal directions, which leaves the pairs of pixels nearly as
    far apart.

    With ``paper=True`` ``n_coalitions`` is k, the minimum: the steps end at k
    clusters, or before the step that would leave fewer, and no cluster is merged
    afterwards, so that there are k to :math:`\ell` of them, unless the first map has
    fewer. Only a summary of the paper is known to us. It gives this range, no k or
    :math:`\ell`: 16, 32 and the 16 directions are ours.

    The result is a ``feature_mask`` for :class:`captum.attr.FeatureAblation`,
    :class:`captum.attr.KernelShap`, :class:`captum_margin.attr.MarginSaliency` and
    :class:`captum_margin.attr.CoalitionPerturbation`: one of shape (B, 1, H, W) is
    ``coalitions[:, None]``.

    Args:
        forward_func (Callable): The model; a Module unless ``layer`` is given.
        inputs (Tensor): Images of shape (B, C, H, W).
        layer (Module or list, optional): The layers whose outputs (B, K, h, w) are
            clustered, upsampled bilinearly. Default: None, by ``resolution``.
        additional_forward_args (Any, optional): As in
            :class:`captum.attr.FeatureAblation`. Default: None.
        n_coalitions (int, optional): How many at most, at least 1. An image of little
            variety has fewer. With ``paper=True`` how many at least. Default: 16.
        n_clusters (int, optional): :math:`\ell`, how many there are to begin with, at
            least 1. Default: 32.
        paper (bool, optional): The paper's form: ``n_coalitions`` is the minimum,
            responses are learnt on all pixels, and ``resolution`` is ``"full"``.
            Default: False.
        resolution (str, optional): Without ``layer``: ``"pyramid"`` takes the last
            feature maps of each size, upsampled, in a transformer also the tokens
            that go into the last attention; ``"full"`` runs the
            network's sequential convolutional trunk (VGG, AlexNet, SqueezeNet and the
            like) with stride 1 and without pooling, which costs tens of forward
            passes. Default: None, ``"pyramid"`` (paper: ``"full"``).
        n_steps (int, optional): Steps of the clustering at most. Default: 100.
        continuity (float, optional): :math:`\mu`, at least 0; high values make large,
            compact coalitions. Default: 1.0.
        seed (int, optional): Of the first map, the same for each image. Default: 0.
        show_progress (bool, optional): A bar over the images. Default: False.
        reshape_transform (Callable, optional): From the outputs of ``layer`` to
            (B, K, h, w), for layers of tokens, such as
            :func:`~captum_margin.attr.tokens_to_maps`. Default: None.

    Returns:
        Tensor: Shape (B, H, W), int64, on the device of ``inputs``; the coalitions of
        each image are numbered from 0 without gaps. The same for an image alone and in
        a batch, and for the same seed.

    Raises:
        TypeError: If ``inputs`` are not one floating tensor, or ``layer`` no modules.
        ValueError: If they are no images, an option is out of its range, a layer has
            no feature maps or one that is not finite, or the network's cannot be found.

    Cost: per image one forward pass (``"full"``: the trunk at H x W positions; for
    SqueezeNet and 224 px about 0.6 GB), then at most ``n_steps`` steps of
    O(H · W · n_clusters · d), d at most 16 for each feature map.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(),
    ...                     nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
    ...                     nn.Flatten(), nn.LazyLinear(2)).eval()
    >>> image = torch.zeros(1, 1, 16, 16)
    >>> image[..., 8:] = 1.0
    >>> mask = feature_coalitions(net, image, n_coalitions=2)
    >>> mask.shape
    torch.Size([1, 16, 16])
    """
    (images,) = _images(inputs, forward_func)
    n_coalitions = whole_number(n_coalitions, "n_coalitions")
    n_clusters = whole_number(n_clusters, "n_clusters")
    n_steps = whole_number(n_steps, "n_steps")
    seed = whole_number(seed, "seed")
    if n_coalitions < 1 or n_clusters < 1 or n_steps < 0 or not continuity >= 0:
        raise ValueError(
            "expected n_coalitions >= 1, n_clusters >= 1, n_steps >= 0 and "
            f"continuity >= 0 (got {n_coalitions}, {n_clusters}, {n_steps} and "
            f"{continuity})"
        )
    if paper and n_coalitions > n_clusters:
        raise ValueError(
            "expected n_coalitions <= n_clusters with paper=True, where they are the "
            f"least number and the first (got {n_coalitions} and {n_clusters})"
        )
    if resolution is None:
        resolution = "full" if paper else "pyramid"
    if resolution not in ("pyramid", "full"):
        raise ValueError(
            f"expected resolution 'pyramid' or 'full' (got {resolution!r})"
        )
    layers = [layer] if isinstance(layer, nn.Module) else layer
    if layers is not None and (
        not layers or not all(isinstance(one, nn.Module) for one in layers)
    ):
        raise TypeError(f"expected layer as a Module or a list of them (got {layer!r})")
    size = tuple(images.shape[2:])
    # Enlarged responses may lose a cluster, and the paper's minimum would not hold.
    shrinks = resolution == "pyramid" and not paper
    shrink = max(1.0, max(size) / _SIDE) if shrinks else 1.0
    coarse = tuple(max(1, round(side / shrink)) for side in size)
    coalitions = []
    rows = range(len(images))
    for row in tqdm(rows, desc="feature_coalitions", disable=not show_progress):
        index = torch.tensor([row])
        # A copy: layers may change it in place. Another layout would round otherwise.
        image = images[index].contiguous()
        _, args = select_rows(None, additional_forward_args, index, len(images))
        if layers is not None:
            maps = layer_features(forward_func, layers, image, args, reshape_transform)
        elif resolution == "full":
            maps = full_resolution_features(forward_func, image, args)
        else:
            maps = pyramid_features(forward_func, image, args)
        features = torch.cat([_pixels(of_layer, coarse) for of_layer in maps], dim=1)
        response = _responses(
            features, coarse, n_coalitions, n_clusters, n_steps, continuity, seed, paper
        ).T.view(1, -1, *coarse)
        if coarse != size:
            response = F.interpolate(
                response, size, mode="bilinear", align_corners=False
            )
        coalitions.append(_largest(response[0], None if paper else n_coalitions))
    return torch.stack(coalitions)


def _largest(response: Tensor, n_coalitions: int | None) -> Tensor:
    """Which response (L, H, W) is the largest of those that are so most often, (H, W).

    So that no more than ``n_coalitions``, if any number, are left after the steps.
    """
    often = response.argmax(dim=0).flatten().bincount(minlength=len(response))
    kept = often.sort(descending=True, stable=True).indices[:n_coalitions]
    cluster: Tensor = response[kept].argmax(dim=0).unique(return_inverse=True)[1]
    return cluster


def similarity_loss(responses: Tensor) -> Tensor:
    """Cross entropy of the responses (N, L) with their own largest, a scalar."""
    return F.cross_entropy(responses, responses.argmax(dim=1))


def continuity_loss(responses: Tensor) -> Tensor:
    """Mean absolute differences of the responses (H, W, L) down and across, summed."""
    total = responses.new_zeros(())
    for axis in (0, 1):
        if responses.shape[axis] > 1:
            total = total + responses.diff(dim=axis).abs().mean()
    return total


def _images(inputs: object, forward_func: Callable[..., Tensor]) -> tuple[Tensor]:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            f"expected images as one floating-point tensor (B, C, H, W) (got {got}); "
            "convert them as the model needs them"
        )
    (images,) = format_inputs(inputs)
    if images.dim() != 4:
        raise ValueError(
            f"expected images of shape (B, C, H, W) (got {tuple(images.shape)})"
        )
    check_layout(images, forward_func)
    return (images.detach(),)


def _pixels(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Feature maps (1, K, h, w) as rows (H · W, d) of unit mean square length.

    Directions are taken before the maps are enlarged: both are linear, so that the
    order makes no difference but in price.
    """
    rows = maps[0].flatten(1).T
    # Of a constant nothing may be left, and no square may leave the range of numbers.
    rows = rows / rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
    rows = rows - rows[:1]
    rows = rows - rows.mean(dim=0)
    largest = rows.abs().max()
    if not largest > _ROUNDING * torch.finfo(rows.dtype).eps:
        nothing: Tensor = rows.new_zeros(size[0] * size[1], 1)
        return nothing
    reduced = _principal_parts((rows / largest).double()).to(maps)
    reduced = reduced.T.reshape(1, -1, *maps.shape[2:])
    if tuple(maps.shape[2:]) != size:
        reduced = F.interpolate(reduced, size, mode="bilinear", align_corners=False)
    pixels: Tensor = reduced[0].flatten(1).T
    return pixels


def _principal_parts(rows: Tensor) -> Tensor:
    """Centred rows (n, K), not all zero, along their main directions, (n, d).

    The rows' mean square length is 1 before directions are left out. The products of
    rows are taken, or of columns, whichever are fewer: with 1280 channels at 49 places,
    hundreds of them 0, the channels' matrix has hundreds of eigenvalues of nothing but
    rounding, over which the solver may fail.
    """
    few_rows = rows.shape[0] < rows.shape[1]
    gram = rows @ rows.T if few_rows else rows.T @ rows
    # On any device the same, and these are small.
    values, vectors = torch.linalg.eigh(gram.cpu())
    # Directions without variance are whatever the solver makes of rounding.
    kept = values[-_DIRECTIONS:] > _NO_VARIANCE * values[-1]
    values = values[-_DIRECTIONS:][kept].to(rows)
    vectors = vectors[:, -_DIRECTIONS:][:, kept].to(rows)
    parts = vectors * values.sqrt() if few_rows else rows @ vectors
    # The sign of a direction is arbitrary and differs between machines.
    highest = parts.abs().argmax(dim=0, keepdim=True)
    parts = parts * parts.gather(0, highest).sign()
    found: Tensor = parts / rows.square().sum(dim=1).mean().sqrt()
    return found


@torch.enable_grad()
def _responses(
    features: Tensor,
    size: tuple[int, ...],
    n_coalitions: int,
    n_clusters: int,
    n_steps: int,
    continuity: float,
    seed: int,
    paper: bool = False,
) -> Tensor:
    """Responses (h · w, L) of one image from the features (h · w, d) of its pixels.

    The first that have no more than ``n_coalitions`` clusters; with ``paper`` the last
    before there are fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    start = torch.randn(width, n_clusters, generator=generator)
    weight = (start / width**0.5).to(features).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=_RATE, momentum=_MOMENTUM)
    spread_of_all = features.std() if features.numel() > 1 else features.new_zeros(())
    features = features / spread_of_all.clamp(min=_EPSILON)
    learnt = features.new_zeros(0)
    for step in range(n_steps + 1):
        response = features @ weight
        spread = response.var(dim=0, unbiased=False) + _EPSILON
        response = (response - response.mean(dim=0)) / spread.sqrt()
        count = response.detach().argmax(dim=1).unique().numel()
        if paper and step > 0 and count < n_coalitions:
            break
        learnt = response.detach()
        if step == n_steps or count <= n_coalitions:
            break
        loss = similarity_loss(response)
        if continuity > 0:
            loss = loss + continuity * continuity_loss(response.view(*size, -1))
        (weight.grad,) = torch.autograd.grad(loss, weight)
        optimizer.step()
    return learnt
