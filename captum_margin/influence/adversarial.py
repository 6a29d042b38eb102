"""Which samples a network's latent space does not expect, such as attacked ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from captum_margin.influence._extraction import as_loader, extract
from captum_margin.influence.base import MarginInfluence
from captum_margin.influence.samples import Samples, as_features, as_labels
from captum_margin.influence.settings import Settings
from captum_margin.signal import Graph, kernel_density, leave_neighborhood_out_mmd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AdversarialSettings", "AdversarialStatistics"]


@dataclass(frozen=True, eq=False)
class AdversarialSettings(Settings):
    """The options of :class:`AdversarialStatistics`: of :class:`Settings`, and more.

    Args:
        statistic (str): ``"mmd"``, or ``"kde"``, which needs references.
        references (optional): ``"kde"`` only: training samples (M, F) in the same
            latent space, of any type that ``from_features`` takes; with a model also
            its training data, a Dataset or DataLoader, which is run through it.
        reference_classes (optional): Their classes (M,). From a data set: its labels.
        predicted (optional): The model's decisions (N,) for the samples. With a model:
            its own, the largest of its scores (with one score: whether it is above 0).
            Without both kinds of classes all references count.
        gamma (float, optional): Of the kernel, as in
            :func:`~captum_margin.signal.leave_neighborhood_out_mmd` and
            :func:`~captum_margin.signal.kernel_density`.
        estimate (str): Of the MMD, ``"exact"``, or ``"features"`` for many samples.
        seed (int): Of random features.
    """

    statistic: Literal["mmd", "kde"] = "mmd"
    references: Any = field(default=None, repr=False)
    reference_classes: Any = field(default=None, repr=False)
    predicted: Any = field(default=None, repr=False)
    gamma: float | None = None
    estimate: Literal["exact", "features"] = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the choice."""
        if self.statistic not in ("mmd", "kde"):
            raise ValueError(
                f"expected statistic 'mmd' or 'kde' (got {self.statistic!r})"
            )
        if self.estimate not in ("exact", "features"):
            raise ValueError(
                f"expected estimate 'exact' or 'features' (got {self.estimate!r})"
            )
        if self.statistic == "kde" and self.references is None:
            raise ValueError(
                "statistic='kde' needs references=: training samples in the same "
                "latent space, or with a model its training data"
            )


class AdversarialStatistics(MarginInfluence):
    r"""Scores samples by how strange they are to a latent space; high is suspicious.

    An attack moves a sample to where the network decides otherwise, but seldom to where
    its latents are like those of real samples. Pass the data under suspicion, the
    attacked model and its last hidden layer. f is high where a sample is strange:

    - ``statistic="mmd"``: the leave-neighbourhood-out MMD, global: how far the mean of
      all samples but i and its neighbours moves when i joins. Needs nothing else.
    - ``statistic="kde"``: the negative logarithm of the kernel density at i of the
      training samples of the class that is predicted for i (Feinman et al., *Detecting
      Adversarial Samples from Artifacts*, https://arxiv.org/abs/1703.00410, where low
      density is suspicious). Of the logarithm because the filter compares differences,
      and densities far out all differ from 0 by next to nothing. Where the density
      underflows, or the class has no reference, f is 87 (float64: 708).

    The score is what f exceeds its neighbourhood by, A the mean over the k = 30 nearest
    neighbours among the samples themselves:

    .. math:: I(i) = \max(0, f(i) - (A^p f)(i))^2

    The filter removes what samples share with their neighbours. It can sharpen the
    statistic where a few strange samples lie among ordinary ones, and removes what is
    looked for where they lie among their own kind. Compare both
    with :meth:`plot_histograms`, and rank by ``result().function``, which is f, if that
    is better; ``result().filtered`` is f - A f.

    ``paper=True`` is the form of case study V of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407): filtered with the symmetric shift and squared
    with the sign lost.

    Args:
        model, train_dataset, ...: As in :class:`MarginInfluence`, and its
            ``from_features``; labels are for pictures and tables only. Options are
            those of :class:`AdversarialSettings`. ``from_graph`` knows no features
            and needs a ``function``.

    Raises:
        TypeError: As :class:`MarginInfluence`.
        ValueError: As :class:`MarginInfluence`, from a graph without a function, if
            references or their classes are missing or do not fit, or if an option is
            out of its range.

    Cost: that of the graph, O(N² F) time; then O(N² F) for ``"mmd"``, less with
    ``estimate="features"``, or O(N · M · F) for ``"kde"``, with classes only pairs of a
    class. Memory O((N + M) F + N · k).

    >>> line = torch.stack([torch.linspace(0, 1, 9), torch.zeros(9)], dim=1)
    >>> x = torch.cat([line, torch.tensor([[0.5, 2.0]])])
    >>> AdversarialStatistics.from_features(x, k=3).influence(k=1).indices.tolist()
    [[9]]
    >>> kde = AdversarialStatistics.from_features(
    ...     x, k=3, statistic="kde", references=line)
    >>> kde.influence(k=1).indices.tolist()
    [[9]]
    """

    settings: ClassVar[Settings] = AdversarialSettings(
        k=30, sided="above", isolated="keep"
    )
    paper_settings: ClassVar[Settings] = AdversarialSettings(
        k=30, shift="symmetric", isolated="keep"
    )

    def plot_histograms(self, attacked: Any = None, *, bins: int = 50) -> Figure:
        """How many samples have which value, without and with the graph.

        Args:
            attacked (optional): Bools (N,), where it is known which samples are
                attacked: these get a colour of their own. Default: None.
            bins (int, optional): Of both histograms. Default: 50.

        Returns:
            Figure: Of matplotlib: f on the left, f - A f on the right.

        Raises:
            ValueError: If ``attacked`` is not of shape (N,), or the function (one's
                own) has several channels.
        """
        from captum_margin._notebook import NotebookFigure

        result = self.result()
        if result.function.dim() != 1:
            raise ValueError(
                "expected a function of shape (N,) "
                f"(got {tuple(result.function.shape)})"
            )
        count = result.graph.num_nodes
        mask = np.zeros(count, bool)
        if attacked is not None:
            if isinstance(attacked, Tensor):
                attacked = attacked.cpu()
            mask = np.asarray(attacked).astype(bool)
        if mask.shape != (count,):
            raise ValueError(
                f"expected attacked of shape (N,) = ({count},) (got {mask.shape})"
            )
        figure = NotebookFigure(figsize=(8, 3), layout="constrained")
        panels = (
            ("without the graph: f", result.function),
            ("with the graph: f - A f", result.filtered),
        )
        for axes, panel in zip(figure.subplots(1, 2), panels, strict=True):
            title, value = panel
            x = value.cpu().numpy()
            edges = np.histogram_bin_edges(x, bins)
            if attacked is None:
                axes.hist(x, edges)
            else:
                axes.hist(x[~mask], edges, alpha=0.6, label="not attacked")
                axes.hist(x[mask], edges, alpha=0.6, label="attacked")
                axes.legend(frameon=False)
            axes.set(title=title, xlabel="value (high: suspicious)", ylabel="samples")
        return figure

    def _signal(self, graph: Graph, samples: Samples) -> Tensor:
        assert samples.features is not None  # _check
        used = self._used()
        x = samples.features
        if x.is_floating_point() and x.element_size() < 4:
            x = x.float()  # half precision cannot tell values near 1 / N apart
        if used.statistic == "mmd":
            return leave_neighborhood_out_mmd(
                x,
                graph.edge_index,
                gamma=used.gamma,
                estimate=used.estimate,
                seed=used.seed,
            )
        references, reference_classes = self._references()
        predicted = used.predicted
        if predicted is None and samples.scores is not None:
            predicted = _decisions(samples.scores)
        if predicted is None or reference_classes is None:
            if predicted is not reference_classes:
                raise ValueError(
                    "expected predicted= and reference_classes= together (got one of "
                    "them)"
                )
            density = kernel_density(x, references.to(x.device), gamma=used.gamma)
        else:
            own, other = _same_classes(
                predicted, reference_classes, len(x), len(references)
            )
            density = kernel_density(
                x,
                references.to(x.device),
                own.to(x.device),
                other.to(x.device),
                gamma=used.gamma,
            )
        return -density.clamp(min=torch.finfo(density.dtype).tiny).log()

    def _references(self) -> tuple[Tensor, Any]:
        """Features of the references and their classes, if there are any."""
        used = self._used()
        given = used.references
        if self.model is None or isinstance(given, Tensor) or hasattr(given, "dtype"):
            return as_features(given), used.reference_classes
        loader = as_loader(given, self.batch_size)
        features, labels, _ = extract(
            self.model, loader, self._layer, self._pooling, False, self.get_name()
        )
        classes = used.reference_classes
        return features, labels if classes is None else classes

    def _check(self, samples: Samples) -> None:
        super()._check(samples)
        if samples.features is None and self.function is None:
            raise ValueError(
                f"{self.get_name()} needs features (got a graph alone): start with "
                "from_features or a model, or pass function="
            )

    def _other(self, inputs: Any) -> AdversarialStatistics:
        if self._used().predicted is not None:
            raise ValueError(
                "expected inputs=None (predicted= belongs to the samples this was made "
                "with); start from_features anew"
            )
        return super()._other(inputs)

    def _used(self) -> AdversarialSettings:
        assert isinstance(self.used, AdversarialSettings)
        return self.used


def _decisions(scores: Tensor) -> Tensor:
    """The class of the largest score; of a single one, whether it is above 0."""
    scores = scores.flatten(1) if scores.dim() > 1 else scores[:, None]
    return (scores[:, 0] > 0).long() if scores.size(1) == 1 else scores.argmax(dim=1)


def _same_classes(
    predicted: Any, references: Any, samples: int, count: int
) -> tuple[Tensor, Tensor]:
    """Both as numbers of the same classes, whatever they are called.

    Raises:
        ValueError: If there is not one for each, or they have no class in common.
    """
    own, names = as_labels(predicted, samples)
    other, reference_names = as_labels(references, count)
    number = {name: c for c, name in enumerate(names)}
    if not number.keys() & set(reference_names):
        raise ValueError(
            f"expected predicted classes {names} among those of the references (got "
            f"{reference_names})"
        )
    # Classes that are never predicted share a number that no sample has.
    table = torch.tensor([number.get(name, len(names)) for name in reference_names])
    return own, table[other]
