"""What ``bench_sanity.py`` compares: methods, networks and similarities of maps.

Every method takes a :class:`Case` and returns maps of shape (B, H, W), with the signs
it gives them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.machine import quick_dtype
from tests.benchmarks.networks.trained import (
    CountedNetwork,
    NetworkName,
    architecture,
    counted,
    plain_network,
)
from tests.benchmarks.representative.models import LayeredNet

CHUNK = 8
Layered = LayeredNet | CountedNetwork

# What is initialised anew: the classifier or the whole network.
STAGES = ("classifier", "all")


@dataclass
class Case:
    """Images to explain at one network.

    Attributes:
        model: Logits out; ``feature_map`` is the layer that CAMs look at.
        images: Normalised images (B, C, H, W).
        targets: The class to explain for each.
        seed: Of the methods that draw.
        references: Of RepresentativeInterpretation.
        window: Side of the square of Occlusion.
        fitted: The fitted RepresentativeInterpretation, one for each seed.
    """

    model: Layered
    images: Tensor
    targets: list[int]
    seed: int
    references: Tensor
    window: int
    fitted: dict[int, object]

    def probabilities(self, x: Tensor) -> Tensor:
        """Softmax scores, of which black boxes are given the target's."""
        return self.model(x).softmax(dim=1)


def margin_saliency(case: Case) -> Tensor:
    from captum_margin.attr import MarginSaliency

    return MarginSaliency(case.model).attribute(
        case.images,
        target=case.targets,
        n_evaluations=200,
        perturbations_per_eval=CHUNK,
        seed=case.seed,
    )[:, 0]


def representative(case: Case) -> Tensor:
    from captum_margin.attr import RepresentativeInterpretation

    if case.seed not in case.fitted:
        case.fitted[case.seed] = RepresentativeInterpretation(
            case.model, case.model.feature_map
        ).fit(case.references, seed=case.seed)
    explainer = case.fitted[case.seed]
    with warnings.catch_warnings():
        # Counted by ``own_boundary`` instead.
        warnings.filterwarnings("ignore", "no sampled boundary")
        maps = explainer.attribute(case.images, target=case.targets)  # type: ignore[attr-defined]
    return _enlarged(maps, case)


def own_boundary(case: Case) -> list[bool]:
    """Which images RepresentativeInterpretation gave a boundary of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no sampled boundary")
        _, details = case.fitted[case.seed].attribute(  # type: ignore[attr-defined]
            case.images, target=case.targets, return_details=True
        )
    return details.own_boundary.tolist()  # type: ignore[no-any-return]


def coalition(case: Case) -> Tensor:
    from captum_margin.attr import CoalitionPerturbation

    with warnings.catch_warnings():
        # Such maps are 0: counted as constant.
        warnings.filterwarnings("ignore", "the score of")
        maps = CoalitionPerturbation(case.model).attribute(
            case.images, target=case.targets, internal_batch_size=CHUNK, seed=case.seed
        )
    return maps[:, 0]


def grad_cam(case: Case) -> Tensor:
    from captum.attr import LayerGradCam

    maps = LayerGradCam(case.model, case.model.feature_map).attribute(
        case.images, target=case.targets
    )
    return _enlarged(maps.detach(), case)


def integrated_gradients(case: Case) -> Tensor:
    from captum.attr import IntegratedGradients

    maps = IntegratedGradients(case.model).attribute(
        case.images, target=case.targets, n_steps=25, internal_batch_size=CHUNK
    )
    return maps.sum(dim=1).detach().float()


def occlusion(case: Case) -> Tensor:
    """Steps of half a window, to the mean colour of each image."""
    from captum.attr import Occlusion

    channels = case.images.shape[1]
    return (
        Occlusion(case.probabilities)
        .attribute(
            case.images,
            target=case.targets,
            sliding_window_shapes=(channels, case.window, case.window),
            strides=(channels, case.window // 2, case.window // 2),
            baselines=case.images.mean(dim=(2, 3), keepdim=True).expand_as(case.images),
            perturbations_per_eval=CHUNK,
        )
        .mean(dim=1)
    )


def _enlarged(maps: Tensor, case: Case) -> Tensor:
    from captum.attr import LayerAttribution

    size = tuple(case.images.shape[2:])
    return LayerAttribution.interpolate(maps, size, "bilinear")[:, 0]


METHODS: dict[str, Callable[[Case], Tensor]] = {
    "MarginSaliency-200": margin_saliency,
    "RepresentativeInterpretation": representative,
    "CoalitionPerturbation": coalition,
    "LayerGradCam": grad_cam,
    "IntegratedGradients": integrated_gradients,
    "Occlusion": occlusion,
}
DRAWING = tuple(METHODS)[:3]  # those with a seed


class _Features(nn.Module):
    """EfficientNet up to the mean over its last maps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net.extract_features(x)  # type: ignore[operator]
        return maps


def layered(name: NetworkName, net: nn.Module) -> Layered:
    """A network with its ``feature_map``: below it in the quick type, above it float32.

    The transformer is float32 throughout.
    """
    if name == "vit":
        return counted(name, net)
    trunk: nn.Module
    if name == "squeezenet":
        trunk, head = net.features.to(quick_dtype()), nn.Sequential(net.classifier)
    else:
        trunk = _Features(net.to(quick_dtype()))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net._fc.float())
    return LayeredNet(trunk, head.append(nn.Flatten())).eval()


def randomised(
    name: NetworkName, stage: str, seed: int, references: Tensor
) -> nn.Module:
    """The network, its upper layers or all as they are before training.

    Batch norm of a random network has no statistics; it gets those of the references.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = architecture(name)
        if name == "vit":  # torchvision's head begins as zeros: every class the same
            fresh.heads.head.reset_parameters()  # type: ignore[operator, union-attr]
    net = plain_network(name)
    if stage == "all":
        net.load_state_dict(fresh.state_dict())
        return _with_statistics(net, references)
    above = {"squeezenet": "classifier", "efficientnet": "_fc", "vit": "heads"}[name]
    net.get_submodule(above).load_state_dict(fresh.get_submodule(above).state_dict())
    return net


@torch.no_grad()
def _with_statistics(net: nn.Module, references: Tensor) -> nn.Module:
    """The network whose batch norms have seen the references, one chunk at a time."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the chunks
        norm.train()
    for chunk in references.split(CHUNK) if norms else ():
        net(chunk)
    return net.eval()


def digit_net(
    images: Tensor, labels: Tensor, seed: int, max_epochs: int = 150
) -> tuple[LayeredNet, float, int]:
    """A small net trained until it has learnt its labels by heart.

    Returns:
        The net, its accuracy on what it was trained on, and the epochs it took; it
        stops at 99.5%.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        head = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 49, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    model = LayeredNet(trunk, head)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    accuracy, epoch = 0.0, 0
    while accuracy < 0.995 and epoch < max_epochs:
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
        accuracy, epoch = accuracy_of(model, images, labels), epoch + 1
    return model.eval().requires_grad_(False), accuracy, epoch


def accuracy_of(model: LayeredNet, images: Tensor, labels: Tensor) -> float:
    """The share of images predicted as labelled."""
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    return float(right.float().mean())


def similarity(
    one: np.ndarray, other: np.ndarray, ink: np.ndarray | None = None
) -> dict[str, float]:
    """Of two maps: rank correlations with and without their signs, and SSIM.

    SSIM is of absolute values scaled to [0, 1] by their smallest and largest. A map
    that is the same everywhere has no ranks: it is similar to no other, 0. Where a
    mask of ink is given, ``on_ink`` is the correlation of absolute values there.
    """
    from scipy.stats import spearmanr
    from skimage.metrics import structural_similarity

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        nothing = {"absolute": 0.0, "signed": 0.0, "ssim": 0.0, "constant": 1.0}
        return nothing | ({} if ink is None else {"on_ink": 0.0})
    absolutes = [np.abs(values.astype(np.float64)) for values in (one, other)]
    spans = [max(float(np.ptp(values)), 1e-300) for values in absolutes]
    scaled = [
        (values - values.min()) / span
        for values, span in zip(absolutes, spans, strict=True)
    ]
    found = {
        "absolute": float(spearmanr(*(a.ravel() for a in absolutes)).statistic),
        "signed": float(spearmanr(one.ravel(), other.ravel()).statistic),
        "ssim": float(structural_similarity(*scaled, data_range=1.0)),
        "constant": 0.0,
    }
    if ink is not None:
        there = [a[ink] for a in absolutes]
        constant = any(np.ptp(values) == 0 for values in there)
        found["on_ink"] = 0.0 if constant else float(spearmanr(*there).statistic)
    return found
