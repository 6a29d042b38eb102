"""ACE, automatic concept-based explanations, reused on images never seen.

Ghorbani, Wexler, Zou, Kim, "Towards Automatic Concept-based Explanations", NeurIPS
2019: images of a class are cut into segments, the segments' feature maps are clustered,
outliers go, and TCAV says how much each cluster, a concept, matters for the class.
Reused as by Lam et al., ICCV 2021, section 6.1: a new image is cut in the same way, its
outlying segments go, each other takes its nearest concept; the most important are kept
until they are more than 20% of the pixels (section 6.2).

Written from the papers, for want of a maintained implementation; TCAV is Captum's. Two
of ACE's three resolutions, 15 concepts instead of 25 and 10 random sets for each
instead of 20 are what a CPU can pay for.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from captum.concept import TCAV, Classifier, Concept
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.benchmarks.representative.models import Task

SCALES = (15, 50)  # segments an image
ALIKE = 0.5  # a segment that overlaps an earlier one by more is the same again
GRAY = 117  # around a segment
N_CONCEPTS = 15
LARGEST = 40  # segments of a concept; those further from its centre are outliers
N_RANDOM = 10  # sets of random photographs
SIGNIFICANT = 0.05
LEAST_IMAGES = 10  # of which concepts are made
CHUNK = 64


@dataclass
class Segments:
    """Of some images.

    Attributes:
        image: Which of the images each is of, ascending, (S,).
        pooled: What the head reads of the segment alone, (S, K, 4, 4), float16.
        masks: Its pixels, packed bits, (S, H * W / 8).
    """

    image: Tensor
    pooled: Tensor
    masks: Tensor

    def of(self, images: Tensor) -> Tensor:
        """Positions of the segments of some images."""
        return torch.isin(self.image, images).nonzero()[:, 0]


@dataclass
class Concepts:
    """ACE's interpretation of a set of images.

    Attributes:
        centres: Of all clusters of segments, (k, K).
        importance: TCAV's score of each, 0 where chance would do as well; NaN for
            clusters that are outliers, (k,).
    """

    centres: Tensor
    importance: Tensor


def cut(image: Tensor) -> NDArray[np.bool_]:
    """Segments of a picture uint8 (3, H, W) at each scale, bool (S, H, W)."""
    from skimage.segmentation import slic

    pixels = image.permute(1, 2, 0).numpy()
    found: list[NDArray[np.bool_]] = []
    for n_segments in SCALES:
        labels = slic(pixels, n_segments, compactness=20, sigma=1, start_label=0)
        found += [labels == label for label in range(labels.max() + 1)]
    masks = np.stack(found)
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    size = flat.sum(axis=1)
    both = flat @ flat.T
    overlap = both / (size[:, None] + size - both)
    kept: list[int] = []
    for number in range(len(masks)):
        if not kept or overlap[number, kept].max() <= ALIKE:
            kept.append(number)
    return masks[kept]


def alone(image: Tensor, masks: NDArray[np.bool_]) -> Tensor:
    """Each segment on grey, cropped to it and enlarged to the picture's size."""
    size = (image.shape[1], image.shape[2])
    patches = []
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = torch.from_numpy(mask[box])
        patch = torch.where(inside, image[(slice(None), *box)], GRAY).float()
        patches.append(F.interpolate(patch[None], size=size, mode="bilinear")[0])
    return torch.stack(patches).round().to(torch.uint8)


@torch.no_grad()
def pooled_maps(task: Task, images: Tensor) -> Tensor:
    """What the first fully connected layer reads, (N, K, 4, 4), float16."""
    pool = task.model.head[0]  # type: ignore[index]
    parts = [pool(task.model.maps(task.normalize(x))) for x in images.split(CHUNK)]
    return torch.cat(parts).half()


def segments(task: Task, part: str, indices: Tensor, cache: Path) -> Segments:
    """Of some of the ``train`` or ``test`` images; kept in the cache."""
    images = task.train_images if part == "train" else task.test_images
    found = []
    for chunk in indices.split(25):
        path = cache / f"{task.name}_segments_{part}_{chunk[0]}_{len(chunk)}.pt"
        if not path.exists():
            cuts = [cut(image) for image in images[chunk]]
            pictures = zip(images[chunk], cuts, strict=True)
            patches = torch.cat([alone(image, masks) for image, masks in pictures])
            bits = [np.packbits(m.reshape(len(m), -1), axis=1) for m in cuts]
            of = chunk.repeat_interleave(torch.tensor([len(m) for m in cuts]))
            pooled = pooled_maps(task, patches)
            torch.save((of, pooled, torch.from_numpy(np.concatenate(bits))), path)
            print(f"{path.stem}: {len(of)} segments", flush=True)
        found.append(torch.load(path, weights_only=True))
    return Segments(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class LinearClassifier(Classifier):
    """A linear separator by least squares, in one step where gradients take many."""

    def __init__(self) -> None:
        from sklearn.linear_model import RidgeClassifier

        self.model = RidgeClassifier()

    def train_and_eval(self, dataloader: Any, **kwargs: Any) -> dict[str, float]:
        inputs, labels = (torch.cat(part) for part in zip(*dataloader, strict=True))
        self.model.fit(inputs.numpy(), labels.numpy())
        return {"accs": float(self.model.score(inputs.numpy(), labels.numpy()))}

    def weights(self) -> Tensor:
        """Of the two classes."""
        normal = torch.from_numpy(self.model.coef_).reshape(1, -1)
        return torch.cat([-normal, normal])

    def classes(self) -> list[int]:
        return self.model.classes_.tolist()  # type: ignore[no-any-return]


def tcav(
    head: nn.Module,
    groups: Sequence[Tensor],
    random_sets: Sequence[Tensor],
    examples: Tensor,
    target: int,
) -> NDArray[np.float64]:
    """TCAV's scores by Captum, one row a group and one for random sets themselves.

    Args:
        head (Module): What the groups are inputs of; its first layer pools.
        groups (Sequence[Tensor]): Pooled maps of each concept.
        random_sets (Sequence[Tensor]): Pooled maps of random photographs.
        examples (Tensor): Feature maps of the images whose scores are derived.
        target (int): Their class.
    """
    named = [
        Concept(number, f"concept{number}", DataLoader(group.float(), LARGEST))
        for number, group in enumerate(groups)
    ]
    chance = [
        Concept(1000 + number, f"random{number}", DataLoader(group.float(), LARGEST))
        for number, group in enumerate(random_sets)
    ]
    pairs = [[one, other] for one in named for other in chance]
    pairs += [[one, chance[i - 1]] for i, one in enumerate(chance)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Derivatives, not derivatives times activations.
        method = LayerGradientXActivation(head, None, multiply_by_inputs=False)
        scores = TCAV(
            head,
            ["0"],
            classifier=LinearClassifier(),
            layer_attr_method=method,
            save_path=folder,
        ).interpret(examples, pairs, target=target)
    found = []
    for one, other in pairs:
        of_pair = scores[f"{one.id}-{other.id}"]["0"]["sign_count"]
        found.append(float(of_pair[0]))
    return np.array(found).reshape(len(groups) + 1, len(random_sets))


def discover(
    head: nn.Module,
    pooled: Tensor,
    image: Tensor,
    random_sets: Sequence[Tensor],
    examples: Tensor,
    target: int,
    seed: int,
) -> Concepts:
    """Concepts of some images' segments, and what TCAV says of each.

    A cluster stays if it has segments of half of the images, or of a quarter and as
    many segments as there are images, or twice as many.
    """
    from scipy.stats import ttest_ind
    from sklearn.cluster import KMeans

    points = pooled.float().mean(dim=(2, 3))
    n_clusters = min(N_CONCEPTS, len(points))
    means = KMeans(n_clusters, n_init=1, random_state=seed).fit(points.numpy())
    centres = torch.from_numpy(means.cluster_centers_)
    labels = torch.from_numpy(means.labels_)
    n_images = len(image.unique())
    groups, kept = [], []
    for number in range(n_clusters):
        members = (labels == number).nonzero()[:, 0]
        share = len(image[members].unique()) / n_images
        size = len(members) / n_images
        if share > 0.5 or (share > 0.25 and size > 1) or size > 2:
            far = (points[members] - centres[number]).norm(dim=1)
            groups.append(pooled[members[far.argsort()[:LARGEST]]])
            kept.append(number)
    importance = torch.full((n_clusters,), torch.nan)
    if groups:
        scores = tcav(head, groups, random_sets, examples, target)
        for number, of_concept in zip(kept, scores[:-1], strict=True):
            with warnings.catch_warnings():  # where no score differs from another
                warnings.simplefilter("ignore")
                p = ttest_ind(of_concept, scores[-1]).pvalue  # NaN: no difference
            importance[number] = of_concept.mean() if p < SIGNIFICANT else 0.0
    return Concepts(centres, importance)


def kept_pixels(
    found: Concepts, pooled: Tensor, masks: Tensor, share: float, side: int
) -> Tensor:
    """What the most important segments of one image keep of it, bool (H, W)."""
    kept = np.zeros(side * side, dtype=bool)
    distances = torch.cdist(pooled.float().mean(dim=(2, 3)), found.centres)
    far, nearest = distances.min(dim=1)
    importance = found.importance[nearest]
    # The most important first; of those alike the one most like its concept.
    for number in np.lexsort((far.numpy(), -importance.numpy())):
        if importance[number].isnan() or kept.mean() > share:
            break
        kept |= np.unpackbits(masks[number].numpy()).astype(bool)
    return torch.from_numpy(kept).view(side, side)
