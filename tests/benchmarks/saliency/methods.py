"""The saliency methods that ``bench_saliency.py`` compares, each as one function.

Every function takes a :class:`Photograph` and returns a map of shape (H, W). All black
boxes score the softmax of the target class and replace what they remove by the mean
colour of the photograph, but for RISE, whose authors multiply the normalised image by
the mask (so that what is removed becomes the mean colour of ImageNet).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The coarser half of the scales of MARGIN's paper: about 300 regions.
SEGMENTS = (50, 100, 150)
CHUNK = 8  # images a forward pass: the fastest on a CPU, and the same for everybody


class CountedSqueezeNet(nn.Module):
    """SqueezeNet in bfloat16 with float32 feature maps, counting what it is shown.

    The benchmark machine has two small cores; bfloat16 halves the price of a forward
    pass, for every method alike. ``feature_map`` is the layer that CAMs hook.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        import torchvision

        net = torchvision.models.squeezenet1_0()
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        net = net.eval().bfloat16().to(memory_format=torch.channels_last)
        self.features, self.classifier = net.features, net.classifier
        self.feature_map = nn.Identity()
        self.n_forward = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_forward += x.shape[0]
        x = x.bfloat16().contiguous(memory_format=torch.channels_last)
        maps = self.feature_map(self.features(x).float())
        return self.classifier(maps.bfloat16()).flatten(1).float()


@dataclass
class Photograph:
    """One image, the class to explain and the model.

    Attributes:
        model: The network, logits out.
        image: Normalised image of shape (1, 3, H, W).
        target: Class index.
        segments: Superpixels of shape (S, H, W), one partition a scale.
        seed: Seed of the methods that draw.
    """

    model: CountedSqueezeNet
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


def occlusion(photo: Photograph, window: int = 35, stride: int = 10) -> Tensor:
    """400 windows at the default size and stride."""
    from captum.attr import Occlusion

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
    """Captum's, summed over superpixels at the three coarser of the paper's scales."""
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
    """Captum's Lime on 50 superpixels, with the ridge of the lime package."""
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


PEERS: dict[str, Callable[[Photograph], Tensor]] = {
    "LayerGradCam": grad_cam,
    "ScoreCAM": score_cam,
    "Occlusion-400": occlusion,
    "FeatureAblation": feature_ablation,
    "Lime-400": lime,
    "KernelShap-400": kernel_shap,
    "RISE-800": rise,
    "centre": centre,
    "random": random,
}
