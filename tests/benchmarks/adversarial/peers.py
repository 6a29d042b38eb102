"""Detectors of attacked or odd samples by others, with the same references.

From pytorch-ood (``pip install pytorch-ood``), with its defaults: k-NN distance (Sun et
al., 50th neighbour of normalised features), Mahalanobis distance (Lee et al.), of one
layer or the sum over several, ViM (Wang et al.) and the largest softmax. pytorch-ood
has no LID; what is written anew here, with the authors' constants:

- LID: Ma et al., *Characterizing Adversarial Subspaces Using Local Intrinsic
  Dimensionality*, https://arxiv.org/abs/1801.02613, k = 20. Neighbours come from all
  references; the authors draw mini-batches, to save time.
- MultiLID: Lorenz et al., https://arxiv.org/abs/2212.06776: the terms of LID's sum one
  by one, for a random forest (which no monotone change of a term touches).
- Deep k-nearest neighbours: Papernot and McDaniel, https://arxiv.org/abs/1803.04765:
  in all layers, how many of 75 neighbours by cosine have another label than is
  predicted.

LID of several layers and MultiLID learn to tell clean from attacked samples: they are
shown the attack "FGSM middle" on the images for choices; all others know no attack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LID_NEIGHBORS = 20
DEEP_KNN_NEIGHBORS = 75
Latents = dict[str, Tensor]
Scorer = Callable[[Latents], Tensor]


def nearest_distances(x: Tensor, references: Tensor, k: int) -> Tensor:
    """To the k nearest references, ascending, (N, k)."""
    rows = [torch.cdist(part, references) for part in x.split(250)]
    return torch.cat([row.topk(k, largest=False).values for row in rows])


def log_ratios(distances: Tensor) -> Tensor:
    """The terms of LID, log(d_i / d_k), (N, k)."""
    least = torch.finfo(distances.dtype).tiny
    d = distances.clamp(min=least)
    return d.log() - d[:, -1:].log()


def lid(distances: Tensor) -> Tensor:
    """Maximum likelihood estimate of the dimension around each point, (N,)."""
    return -1 / log_ratios(distances).mean(1).clamp(max=-1e-6)


def other_labels(
    x: Tensor, references: Tensor, labels: Tensor, predicted: Tensor, k: int
) -> Tensor:
    """Share of the k nearest references, by cosine, that have another label, (N,)."""
    r = torch.nn.functional.normalize(references)
    shares = []
    for part, decided in zip(x.split(250), predicted.split(250), strict=True):
        near = (torch.nn.functional.normalize(part) @ r.T).topk(k).indices
        shares.append((labels[near] != decided[:, None]).float().mean(1))
    return torch.cat(shares)


def learnt(kind: str, features: Scorer, clean: Latents, attacked: Latents) -> Scorer:
    """A classifier of clean against attacked samples, by their features."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if kind == "forest":
        model = RandomForestClassifier(300, random_state=0)
    both = [features(clean), features(attacked)]
    target = np.repeat([0, 1], [len(part) for part in both])
    model.fit(torch.cat(both).numpy(), target)
    return lambda x: torch.from_numpy(model.predict_proba(features(x).numpy())[:, 1])


def peers(
    known: Latents,
    labels: Tensor,
    layers: Sequence[str],
    head: tuple[Tensor, Tensor],
    clean: Latents,
    attacked: Latents,
) -> dict[str, Scorer]:
    """By name: what gives each sample a score, high for suspects.

    Args:
        known: Latents of the references, by layer.
        labels: Their labels, (M,).
        layers: The layers, the last one is that of those that see only one.
        head: Weights and biases of the logits above the last layer.
        clean: Latents of images for choices.
        attacked: The same, attacked: what LID and MultiLID learn from.
    """
    from pytorch_ood.detector import KNN, Mahalanobis, MultiMahalanobis, ViM

    last = layers[-1]
    knn = KNN(None).fit_features(known[last], labels)
    mahalanobis = Mahalanobis(None).fit_features(known[last], labels)
    vim = ViM(None, 64, *head).fit_features(known[last], labels)
    several = MultiMahalanobis([torch.nn.Identity()] * len(layers))
    several.fit_structured([known[layer] for layer in layers], labels)

    def ratios(x: Latents) -> Tensor:
        return torch.cat(
            [
                log_ratios(nearest_distances(x[n], known[n], LID_NEIGHBORS))[:, :-1]
                for n in layers
            ],
            1,
        )

    def lids(x: Latents) -> Tensor:
        columns = [
            lid(nearest_distances(x[layer], known[layer], LID_NEIGHBORS))
            for layer in layers
        ]
        return torch.stack(columns, 1)

    def deep_knn(x: Latents) -> Tensor:
        k = DEEP_KNN_NEIGHBORS
        columns = [
            other_labels(x[layer], known[layer], labels, x["class"], k)
            for layer in layers
        ]
        return torch.stack(columns, 1).mean(1)

    return {
        "softmax": lambda x: -x["scores"].softmax(1).amax(1),
        "knn": lambda x: knn.predict_features(x[last]),
        "mahalanobis": lambda x: mahalanobis.predict_features(x[last]),
        "vim": lambda x: vim.predict_features(x[last]),
        "lid": lambda x: lids(x)[:, -1],
        "mahalanobis, layers": lambda x: several.predict_structured(
            [x[layer] for layer in layers]
        ),
        "deep knn, layers": deep_knn,
        "lid, layers, learnt": learnt("regression", lids, clean, attacked),
        "multilid, layers, learnt": learnt("forest", ratios, clean, attacked),
    }
