"""An answer with everything it came from: scores, graph, function, filtered signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from captum_margin.influence._knowledge import Knowledge, contradicted
from captum_margin.neighbors import Recall
from captum_margin.signal import Graph, one_hot, rank, top

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InfluenceResult", "KMostInfluentialResults", "Neighbors"]


class KMostInfluentialResults(NamedTuple):
    """The samples of the highest (or lowest) scores, as Captum returns them.

    Of :meth:`MarginInfluence.influence` with ``k``.

    Args:
        indices (Tensor): Shape (1, k), int64, best first.
        influence_scores (Tensor): Their scores, shape (1, k).
    """

    indices: Tensor
    influence_scores: Tensor


class Neighbors(NamedTuple):
    """The neighbours of a sample, those of the largest weight first.

    Of :meth:`InfluenceResult.neighbors`.

    Args:
        indices (Tensor): Shape (n,), int64.
        labels (tuple): Their n class names; empty without labels.
        weights (Tensor): Of the edges, shape (n,).
    """

    indices: Tensor
    labels: tuple[Any, ...]
    weights: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class InfluenceResult:
    """Scores of N samples and what explains them: :meth:`MarginInfluence.result`.

    Args:
        name (str): The question, a class name.
        scores (Tensor): Shape (N,), in data order, high for what the name says.
        graph (Graph): Edges, weights and N.
        function (Tensor): f, shape (N,) or (N, C).
        filtered (Tensor): What of f the neighbours do not explain, in its shape.
        labels (Tensor, optional): Class numbers (N,). Default: None.
        classes (tuple, optional): Names of the classes. Default: ().
        issue (str, optional): What :meth:`to_pandas` calls its columns,
            ``is_<issue>_issue`` and ``<issue>_score``. Default: None, no such columns.
        bound (float, optional): The score that is certain, 0 in ``<issue>_score``; the
            largest score if that is larger. Default: 0.0.
        images (Any, optional): Images or ``(image, ...)`` items by index, for
            :meth:`plot`. Default: None.
        backend (str, optional): What found the neighbours. Default: None, the graph
            was given.
        recall (Recall, optional): Share of the true neighbours that were found, as
            measured on a sample. Default: None: all, or the graph was given.
        knowledge (Knowledge, optional): How well the votes name labels, where the
            question is whether these are right. Default: None.
    """

    name: str
    scores: Tensor
    graph: Graph
    function: Tensor
    filtered: Tensor
    labels: Tensor | None = None
    classes: tuple[Any, ...] = ()
    issue: str | None = None
    bound: float = 0.0
    images: Any = None
    backend: str | None = None
    recall: Recall | None = None
    knowledge: Knowledge | None = None

    def __repr__(self) -> str:
        """Such as ``InfluenceResult(LabelNoise, 9 samples, 30 edges, ...)``."""
        graph = self.graph
        parts = [self.name, f"{graph.num_nodes:,} samples"]
        parts.append(f"{graph.edge_index.size(1) // 2:,} edges")
        if self.backend is not None:
            parts.append(f"neighbours by {self.backend} search")
        if self.recall is not None:
            value, error = self.recall
            parts.append(f"recall {value:.3f} ± {error:.3f}")
        if self.knowledge is not None:
            parts.append(str(self.knowledge))
        return f"InfluenceResult({', '.join(parts)})"

    def ranking(self) -> Tensor:
        """All samples, the highest score first, ties by index; shape (N,), int64."""
        return rank(self.scores)

    def top(self, n: int) -> Tensor:
        """The first n of :meth:`ranking`; all if there are fewer."""
        return top(self.scores, n)

    def predicted(self) -> Tensor:
        """The class that each sample should have by the votes of the others, (N,).

        Where f are the labels their votes are what the filter explains of them; else
        the weights of the neighbours of each class. It is the class with the most
        votes, or the sample's own where that is among the highest or there are no
        votes.

        Of :class:`LabelNoise` it is the sample's own too unless the label is called
        wrong: both classes are known to the votes, and the sample is among the
        :attr:`Knowledge.n_wrong` most suspect.

        Raises:
            ValueError: Without labels.

        Cost: O(E + N · C).
        """
        labels = self._labels()
        votes = self._votes()
        winner = votes.argmax(dim=1)
        if self.knowledge is not None:
            wrong = contradicted(labels, votes, self.scores, self.knowledge)
            return torch.where(wrong, winner, labels)
        own = votes.gather(1, labels[:, None])
        # Sums in another order differ by rounding; that is no majority.
        tied = own[:, 0] >= votes.amax(dim=1) * (1 - 1e-6)
        return torch.where(tied, labels, winner)

    def neighbors(self, i: int) -> Neighbors:
        """The neighbours of sample i in the graph, in both directions.

        Raises:
            IndexError: If there is no sample i.
        """
        i = self._index(i)
        source, target = self.graph.edge_index
        # Edges are sorted by target, so those of one sample are a slice.
        ends = torch.tensor([i, i + 1], device=target.device)
        start, stop = torch.searchsorted(target, ends).tolist()
        indices = source[start:stop]
        weights = self.graph.edge_weight
        weights = (
            torch.ones(indices.shape, device=indices.device)
            if weights is None
            else weights[start:stop]
        )
        order = weights.argsort(descending=True, stable=True)
        indices, weights = indices[order], weights[order]
        names = () if self.labels is None else self._names(self.labels[indices])
        return Neighbors(indices, names, weights)

    def explain(self, i: int) -> str:
        """The score of sample i in words.

        Returns:
            str: Such as "sample 17 is labelled dog; 18 of its 20 neighbours are cat".

        Raises:
            IndexError: If there is no sample i.
        """
        i = self._index(i)
        around = self.neighbors(i)
        count = len(around.indices)
        if self.labels is None:
            value = f"{float(self.scores[i]):.3g}"
            return f"sample {i} has the score {value} among its {count} neighbours"
        own = self.classes[int(self.labels[i])]
        if count == 0:
            winner = int(self.predicted()[i])
            if winner == int(self.labels[i]):
                return f"sample {i} is labelled {own}; it has no neighbours"
            return (
                f"sample {i} is labelled {own}; the votes are for "
                f"{self.classes[winner]}, and it has no neighbours"
            )
        votes = self.labels[around.indices].bincount(minlength=len(self.classes))
        most = int(votes.argmax())
        plural = ("neighbour is", "neighbours are")[count > 1]
        return (
            f"sample {i} is labelled {own}; {int(votes[most])} of its {count} {plural} "
            f"{self.classes[most]}"
        )

    def to_pandas(self) -> Any:
        """A table of all samples in data order.

        Columns: ``influence`` and ``rank`` (0 is first); with labels ``given_label``
        and ``predicted_label`` (see :meth:`predicted`) and, in the form of cleanlab's
        ``Datalab.get_issues``, ``is_<issue>_issue`` (the two labels differ) and
        ``<issue>_score`` in [0, 1], 1 - score / bound, low for the suspicious.

        Returns:
            pandas.DataFrame: N rows.

        Raises:
            ImportError: Without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error
        columns: dict[str, Any] = {}
        scores = self.scores.cpu()
        if self.labels is not None:
            predicted = self.predicted()
            if self.issue is not None:
                differ = (predicted != self.labels).cpu().numpy()
                columns[f"is_{self.issue}_issue"] = differ
                bound = max(self.bound, float(scores.max())) or 1.0
                columns[f"{self.issue}_score"] = (1 - scores / bound).numpy()
            columns["given_label"] = list(self._names(self.labels))
            columns["predicted_label"] = list(self._names(predicted))
        ranking = self.ranking().cpu()
        place = torch.empty_like(ranking)
        place[ranking] = torch.arange(ranking.numel())
        columns |= {"influence": scores.numpy(), "rank": place.numpy()}
        return pandas.DataFrame(columns)

    def plot(self, n: int = 8, *, n_neighbors: int = 6, images: Any = None) -> Figure:
        """The top samples beside their neighbours, or a histogram of the scores.

        Args:
            n (int, optional): Samples shown. Default: 8.
            n_neighbors (int, optional): Neighbours of each. Default: 6.
            images (optional): What has the image of sample i, or an item that begins
                with it, at ``images[i]``: tensors (C, H, W) or (H, W), arrays
                (H, W, C) or (H, W), PIL images. Only those shown are read.
                Default: None, those of the data set if it holds images; without any
                a histogram is drawn.

        Returns:
            Figure: Of matplotlib; labels that differ from the sample's own are red. A
            notebook shows it by itself.

        Raises:
            ValueError: If ``n`` is below 1 or ``n_neighbors`` below 0.
        """
        from captum_margin.influence._picture import Shown, contact_sheet, histogram

        if n < 1 or n_neighbors < 0:
            raise ValueError(
                f"expected n >= 1, n_neighbors >= 0 (got {n} and {n_neighbors})"
            )
        images = self.images if images is None else images
        if images is None:
            return histogram(self.scores, self.name)
        rows = []
        for i in self.top(n).tolist():
            around = self.neighbors(i).indices[:n_neighbors].tolist()
            rows.append(
                [
                    Shown(images[j], self._title(j, j == i), j == i, self._alike(i, j))
                    for j in [i, *around]
                ]
            )
        return contact_sheet(
            rows, f"{self.name}: top samples and their nearest neighbours"
        )

    def _title(self, i: int, first: bool) -> str:
        """Number and class of a sample that is pictured; its neighbours' class only."""
        if self.labels is None:
            return str(i)
        name = self.classes[int(self.labels[i])]
        return f"{i}: {name}" if first else str(name)

    def _alike(self, i: int, j: int) -> bool:
        return self.labels is None or bool(self.labels[i] == self.labels[j])

    def _labels(self) -> Tensor:
        if self.labels is None:
            raise ValueError("expected labels (got none); pass labels=")
        return self.labels

    def _votes(self) -> Tensor:
        """Votes for each class, (N, C)."""
        hot = one_hot(self._labels(), max(len(self.classes), 1))
        if self.function.shape == hot.shape and bool((self.function == hot).all()):
            votes: Tensor = self.function - self.filtered
            return votes
        source, target = self.graph.edge_index
        weights = self.graph.edge_weight
        weight = torch.zeros_like(hot)
        flat = target * hot.size(1) + self._labels()[source]
        value = torch.ones_like(flat) if weights is None else weights
        return weight.view(-1).index_add_(0, flat, value.to(hot.dtype)).view_as(hot)

    def _names(self, labels: Tensor) -> tuple[Any, ...]:
        return tuple(self.classes[c] for c in labels.tolist())

    def _index(self, i: int) -> int:
        i, nodes = int(i), self.graph.num_nodes
        if not -nodes <= i < nodes:
            raise IndexError(f"expected a sample within [0, {nodes}) (got {i})")
        return i % nodes
