"""Other methods that rank samples by how likely their label is wrong.

All get the same features and labels; scores are high for suspects. Linear models are
logistic regressions on standardised features, with the penalty of the best five-fold
accuracy on the labels as given, chosen at the first repetition. Neighbours are by
cosine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from captum_margin.signal import Graph, knn_graph, label_disagreement

K = 20  # neighbours of label disagreement
K_VALUE = 10  # of k-NN Shapley and of cleanlab's scores from neighbours: its default
PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0)  # scikit-learn's C
REDUCED = 64  # features of influence functions for more than two classes
CHECKPOINTS = 5


def cleanlab() -> Any:
    """The package, or how to get it."""
    try:
        import cleanlab.data_valuation
        import cleanlab.filter
        import cleanlab.rank
    except ImportError as error:
        raise ImportError("this benchmark needs it: pip install cleanlab") from error
    return cleanlab


class Peers:
    """The other methods on one data set; what labels do not change is made once."""

    def __init__(self, features: Tensor) -> None:
        """Neighbours, all by rank, and standardised features."""
        unit = features.double()
        unit = unit / unit.norm(dim=1, keepdim=True).clamp(min=1e-12)
        n = len(unit)
        self.graph = Graph(*knn_graph(unit, K), n)
        ranks = []
        for start in range(0, n, 500):
            similarity = (unit[start : start + 500] @ unit.T).float()
            rows = torch.arange(len(similarity))
            similarity[rows, rows + start] = -2  # itself comes last
            ranks.append(similarity.argsort(dim=1, descending=True).short())
        self.ranks = torch.cat(ranks)[:, :-1]  # (N, N - 1), N < 32,768
        self.features = StandardScaler().fit_transform(features.double().numpy())
        self._reduced: np.ndarray | None = None

    def penalty(self, labels: Tensor) -> float:
        """The C of the best five-fold accuracy."""
        y = labels.numpy()
        accuracy = [(self.held_out(y, c).argmax(axis=1) == y).mean() for c in PENALTIES]
        return PENALTIES[int(np.argmax(accuracy))]

    def scores(
        self, labels: Tensor, c: float, seed: int, held_out: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Every method's scores (N,); ``held_out`` where it has been made already."""
        y, rows = labels.numpy(), np.arange(len(labels))
        held_out = self.held_out(y, c) if held_out is None else held_out
        fitted = self._fitted(self.features, y, c)
        near = self.ranks[:, :K_VALUE].long()
        votes = np.zeros((len(y), y.max() + 1))
        np.add.at(votes, (rows.repeat(K_VALUE), y[near.numpy()].ravel()), 1 / K_VALUE)
        disagreement = label_disagreement(labels, self.graph.edge_index)
        return {
            f"label disagreement, k = {K}": disagreement.numpy(),
            "5-fold self-confidence": 1 - held_out[rows, y],
            "cleanlab, 5-fold": confident(y, held_out),
            f"cleanlab, k-NN, k = {K_VALUE}": confident(y, votes),
            f"cleanlab Shapley, k = {K_VALUE}": _cleanlab_shapley(y, near.numpy()),
            f"k-NN Shapley, k = {K_VALUE}": self._shapley(labels),
            "training loss": -np.log(fitted[rows, y] + 1e-300),
            "influence functions": self._influence(y, c),
            "TracIn": self._tracin(labels, seed),
            "random": np.random.default_rng(seed).random(len(y)),
        }

    def _fitted(self, x: np.ndarray, y: np.ndarray, c: float) -> np.ndarray:
        with _quiet():
            model = LogisticRegression(C=c, max_iter=60).fit(x, y)
        return np.asarray(model.predict_proba(x))

    def held_out(self, y: np.ndarray, c: float) -> np.ndarray:
        """Five-fold probabilities (N, C) of the logistic regression."""
        model = LogisticRegression(C=c, max_iter=60)
        with _quiet():
            return np.asarray(
                cross_val_predict(model, self.features, y, cv=5, method="predict_proba")
            )

    def _shapley(self, labels: Tensor) -> np.ndarray:
        """Minus the exact k-NN Shapley value (Jia et al. 2019, theorem 1).

        Of every sample for the classification of all others, each sample a test point
        once; not truncated to the nearest.
        """
        value = torch.zeros(len(labels), dtype=torch.float64)
        place = torch.arange(1, self.ranks.size(1) + 1, dtype=torch.float64)
        step = K_VALUE / place[:-1].clamp(min=K_VALUE) / K_VALUE
        for test, ranks in zip(labels.split(500), self.ranks.split(500), strict=True):
            index = ranks.long()
            agree = (labels[index] == test[:, None]).double()
            shapley = agree / len(place)  # of the last one
            change = (agree[:, :-1] - agree[:, 1:]) * step
            shapley[:, :-1] = shapley[:, -1:] + change.flip(1).cumsum(1).flip(1)
            value.index_add_(0, index.flatten(), shapley.flatten())
        return -value.numpy()

    def _influence(self, y: np.ndarray, c: float) -> np.ndarray:
        """Self-influence g' H⁻¹ g of each sample, gradients and Hessian exact.

        Of the logistic regression that minimises c · loss + |w|² / 2. With more than
        two classes it has REDUCED features, the first principal components.
        """
        x, classes = self.features, int(y.max()) + 1
        if classes > 2:
            if self._reduced is None:
                self._reduced = PCA(REDUCED, random_state=0).fit_transform(x)
            x = self._reduced
        p = self._fitted(x, y, c)
        x = np.hstack([x, np.ones((len(x), 1))])
        residue = p - np.eye(classes)[y]
        if classes == 2:
            p, residue = p[:, 1:], residue[:, 1:]
        outputs, width = p.shape[1], x.shape[1]
        hessian = np.zeros((outputs, width, outputs, width))
        for a in range(outputs):
            for b in range(outputs):
                weight = p[:, a] * ((a == b) - p[:, b])
                hessian[a, :, b] = (x * weight[:, None]).T @ x
        penalty = np.full(width, 1 / c)
        penalty[-1] = 1e-3  # the constant has none, but all of them may move together
        square = hessian.reshape(outputs * width, -1)
        square += np.diag(np.tile(penalty, outputs))
        gradient = (residue[:, :, None] * x[:, None]).reshape(len(x), -1)
        influence = gradient * np.linalg.solve(square, gradient.T).T
        return np.asarray(influence.sum(axis=1))

    def _tracin(self, labels: Tensor, seed: int) -> np.ndarray:
        """Sum over checkpoints of rate · |gradient|², of a regression trained by SGD.

        Ten epochs of batches of 100, a checkpoint after every second one. The gradient
        is the outer product of p - y and (x, 1).
        """
        x = torch.from_numpy(self.features)
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        # A step in units of the curvature, which grows with |x|².
        rate = 1.0 / float(x.square().sum(dim=1).mean())
        hot = torch.nn.functional.one_hot(labels).to(x)
        weights = x.new_zeros(x.size(1), hot.size(1))
        generator = torch.Generator().manual_seed(seed)
        score = x.new_zeros(len(x))
        for epoch in range(2 * CHECKPOINTS):
            for batch in torch.randperm(len(x), generator=generator).split(100):
                residue = (x[batch] @ weights).softmax(dim=1) - hot[batch]
                weights -= rate * x[batch].T @ residue / len(batch)
            if epoch % 2:
                residue = (x @ weights).softmax(dim=1) - hot
                square = residue.square().sum(dim=1) * x.square().sum(dim=1)
                score += rate * square
        return score.numpy()


def confident(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """cleanlab's confident learning: its label issues first, then self-confidence."""
    package = cleanlab()
    given = probabilities / probabilities.sum(axis=1, keepdims=True)
    with _quiet():
        issue = package.filter.find_label_issues(y, given, n_jobs=1)
        quality = package.rank.get_label_quality_scores(
            y, given, method="self_confidence"
        )
    return np.asarray(issue + (1 - quality) / 2)


def _cleanlab_shapley(y: np.ndarray, near: np.ndarray) -> np.ndarray:
    """cleanlab's k-NN Shapley, truncated to the k nearest; its memory is O(N²)."""
    n, k = near.shape
    places = (np.ones(n * k), near.ravel(), np.arange(0, n * k + 1, k))
    graph = scipy.sparse.csr_matrix(places, shape=(n, n))
    value: Callable[..., np.ndarray] = cleanlab().data_valuation.data_shapley_knn
    return -value(y, knn_graph=graph, k=k)


@contextmanager
def _quiet() -> Iterator[None]:
    """Regressions that have not converged after 60 steps lose nothing here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
