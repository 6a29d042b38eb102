"""What every saliency method is given, and the methods that are short to say.

Every function takes a :class:`Photograph` and returns a map of shape (H, W). All black
boxes score the softmax of the target class and replace what they remove by the mean
colour of the photograph, but for RISE, whose authors multiply the normalised image by
the mask (so that what is removed becomes the mean colour of the training images).
Lengths are shares of the picture's side: ImageNet's are 224 pixels, CIFAR-10's 32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.networks.trained import CountedNetwork

CHUNK = 8  # images a forward pass: the fastest on a CPU, and the same for everybody


@dataclass
class Photograph:
    """One image, the class to explain and the model.

    Attributes:
        model: The network, logits out, with ``feature_map``, the layer that CAMs hook.
        image: Normalised image of shape (1, 3, H, W).
        target: Class index.
        segments: Superpixels of shape (S, H, W), one partition a scale.
        seed: Seed of the methods that draw.
    """

    model: CountedNetwork
    image: Tensor
    target: int
    segments: Tensor
    seed: int

    def probabilities(self, x: Tensor) -> Tensor:
        """Softmax scores: what every black box is given."""
        return self.model(x).softmax(dim=1)

    @property
    def mean_colour(self) -> Tensor:
        """The image's mean colour, spread over the image."""
        return self.image.mean(dim=(2, 3), keepdim=True).expand_as(self.image)

    @torch.no_grad()
    def scores(self, kept: Tensor, enlarge: Callable[[Tensor], Tensor]) -> Tensor:
        """The target's scores where parts of the image give way to its mean colour.

        Args:
            kept: One row an image to make, (n, P): the share of each part that stays.
            enlarge: From such rows to masks of pixels (n, H, W).
        """
        scores = []
        for rows in kept.split(CHUNK):
            masks = enlarge(rows.to(self.image))[:, None]
            blended = self.mean_colour.lerp(self.image, masks)
            scores.append(self.probabilities(blended)[:, self.target])
        return torch.cat(scores)


def superpixels(image: Tensor) -> Tensor:
    """SLIC's at three scales, (3, H, W), the coarsest of about 50.

    The coarser half of the scales of MARGIN's paper; the finer ones coarser on small
    pictures, whose superpixels would be of seven pixels otherwise.
    """
    from captum_margin.attr import slic_segments

    small = image.shape[-1] < 100
    return slic_segments(
        image[0], n_segments=(50, 75, 100) if small else (50, 100, 150)
    )


def grad_cam(photo: Photograph) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(photo.model, photo.model.feature_map).attribute(
        photo.image, target=photo.target, relu_attributions=True
    )
    size = tuple(photo.image.shape[2:])
    return LayerAttribution.interpolate(cam, size, "bilinear")[0, 0].detach()


def score_cam(photo: Photograph) -> Tensor:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with ScoreCAM(model=photo.model, target_layers=[photo.model.feature_map]) as cam:
        cam.batch_size = CHUNK
        # Its progress bar cannot be turned off.
        grey = cam(photo.image, targets=[ClassifierOutputTarget(photo.target)])
    return torch.from_numpy(grey[0])


def occlusion(photo: Photograph) -> Tensor:
    """Windows of 35 pixels in steps of 10 of 224: 400 of them."""
    from captum.attr import Occlusion

    side = photo.image.shape[-1]
    window, stride = round(side * 35 / 224), max(1, round(side * 10 / 224))
    return (
        Occlusion(photo.probabilities)
        .attribute(
            photo.image,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=photo.mean_colour,
            target=photo.target,
            perturbations_per_eval=CHUNK,
        )[0]
        .mean(dim=0)
    )


def feature_ablation(photo: Photograph) -> Tensor:
    """Captum's, summed over superpixels of three scales."""
    from captum.attr import FeatureAblation

    method = FeatureAblation(photo.probabilities)
    total = photo.image.new_zeros(photo.image.shape[2:])
    for partition in photo.segments:
        ablated = method.attribute(
            photo.image,
            baselines=photo.mean_colour,
            target=photo.target,
            feature_mask=partition[None, None],
            perturbations_per_eval=CHUNK,
        )
        total += ablated[0].mean(dim=0)
    return total


def lime(photo: Photograph, n_samples: int = 400) -> Tensor:
    """Captum's Lime on the coarsest superpixels, with the ridge of the lime package."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    torch.manual_seed(photo.seed)  # Captum has no other way to repeat a run
    method = Lime(photo.probabilities, interpretable_model=SkLearnRidge(alpha=1.0))
    return _superpixel_surrogate(method, photo, n_samples)


def kernel_shap(photo: Photograph, n_samples: int = 400) -> Tensor:
    from captum.attr import KernelShap

    torch.manual_seed(photo.seed)
    return _superpixel_surrogate(KernelShap(photo.probabilities), photo, n_samples)


def _superpixel_surrogate(method: object, photo: Photograph, n_samples: int) -> Tensor:
    attributed: Tensor = method.attribute(  # type: ignore[attr-defined]
        photo.image,
        baselines=photo.mean_colour,
        target=photo.target,
        feature_mask=photo.segments[0][None, None],
        n_samples=n_samples,
        perturbations_per_eval=CHUNK,
    )
    return attributed[0].mean(dim=0)


def rise(photo: Photograph, n_masks: int = 800, grid: int = 7) -> Tensor:
    """Petsiuk et al. 2018: score-weighted mean of random smooth masks, p = 0.5."""
    generator = torch.Generator().manual_seed(photo.seed)
    height, width = photo.image.shape[2:]
    cell = math.ceil(height / grid)
    total = photo.image.new_zeros(height, width)
    for start in range(0, n_masks, CHUNK):
        n = min(CHUNK, n_masks - start)
        coarse = torch.rand(n, 1, grid, grid, generator=generator).lt(0.5).float()
        fine = F.interpolate(coarse, size=((grid + 1) * cell,) * 2, mode="bilinear")
        shifts = torch.randint(0, cell, (n, 2), generator=generator).tolist()
        masks = torch.stack(
            [
                fine[i, :, y : y + height, x : x + width]
                for i, (y, x) in enumerate(shifts)
            ]
        )
        masks = masks.to(photo.image)
        with torch.no_grad():
            scores = photo.probabilities(photo.image * masks)[:, photo.target]
        total += (scores[:, None, None] * masks[:, 0]).sum(dim=0)
    return total / n_masks


def coalition_perturbation(photo: Photograph, **options: Any) -> Tensor:
    """The default, its coalitions made of the maps that CAMs look at."""
    from captum_margin.attr import CoalitionPerturbation

    return (
        CoalitionPerturbation(photo.model, photo.model.feature_map)
        .attribute(
            photo.image, target=photo.target, internal_batch_size=CHUNK, **options
        )[0]
        .mean(dim=0)
    )


def margin_saliency(photo: Photograph, **options: object) -> Tensor:
    from captum_margin.attr import MarginSaliency

    return (
        MarginSaliency(photo.model)
        .attribute(
            photo.image,
            target=photo.target,
            perturbations_per_eval=CHUNK,
            **options,  # type: ignore[arg-type]
        )[0]
        .mean(dim=0)
    )


def centre(photo: Photograph) -> Tensor:
    """A Gaussian in the middle of the picture: what a map without a model gets."""
    height, width = photo.image.shape[2:]
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    return torch.exp(-2 * (x * x + y * y))


def random(photo: Photograph) -> Tensor:
    generator = torch.Generator().manual_seed(photo.seed)
    return torch.rand(tuple(photo.image.shape[2:]), generator=generator)


def edges(photo: Photograph) -> Tensor:
    """How steep the brightness is (Sobel): what a filter without a model finds."""
    across = photo.image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    grey = F.pad(photo.image.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(grey, torch.stack([across, across.T])[:, None])
    return slopes[0].square().sum(dim=0).sqrt()
