"""Which new inputs of a network were attacked, from references that were not."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from captum_margin._files import read_record, write_record
from captum_margin.influence._adversarial import decisions
from captum_margin.influence._extraction import (
    as_dataset,
    as_loader,
    as_module,
    evaluating,
    outputs_of,
    pooled,
)
from captum_margin.influence._layer_statistics import (
    LayerStatistics,
    Usual,
    log_gap,
)

if TYPE_CHECKING:
    from pytorch_ood.api import Detector

__all__ = ["AttackDetector"]

Self = TypeVar("Self", bound="AttackDetector")
_KIND, _VERSION = "attack detector", 1


class AttackDetector:
    r"""Says of new inputs how likely it is that they were attacked; high is suspicious.

    An attack leaves a sample near its own class in early layers, moves it to another in
    late ones, and to where no sample of that class is. References, samples that were
    not attacked, and several layers tell both. In each layer two functions are high
    where a sample is odd for its predicted class c: f is the logarithm of the mean
    distance to the k nearest references of class c, and of that to those of other
    classes. As in case study V of MARGIN (Anirudh et al.,
    https://arxiv.org/abs/1711.05407) the graph takes off what is usual at this place,
    here the mean of f over these k references, R(i), each among the others:

    .. math:: s(i) = f(i) - \frac{1}{k} \sum_{r \in R(i)} f(r)

    The score is the sum of three parts:

    - half the energy of s, :math:`(s - m)^\top C^{-1} (s - m) / 2 L`, with mean m and
      covariance C over the references, two entries for each of L layers: what is odd in
      any direction, and counts once however many layers say it;
    - the ratio of the two distances, its logarithm standardised in each layer and
      summed: what is nearer to other classes (Jiang et al.,
      https://arxiv.org/abs/1805.11783);
    - how little the largest score of the model is above the second, its logarithm:
      attacks that stop at the boundary.

    The latter two are standardised too. Latents are whitened within the classes, as in
    Lee et al., https://arxiv.org/abs/1807.03888.

    It finds odd samples too, such as turned or noisy ones, and cannot say which is
    which; nor does it find an attack that is made against it.
    :class:`AdversarialStatistics` is the paper's question, of one layer, and without
    references.

    Args:
        model (nn.Module): The network; its decision is the largest score.
        layers (sequence of str or nn.Module): From early to late, such as the output of
            each block, and the last hidden layer.
        k (int, optional): Neighbours; fewer if a class has fewer references.
            Default: 10.
        pooling (str, optional): Of feature maps: ``"mean"`` over positions, or
            ``"flatten"``. Default: ``"mean"``.
        batch_size (int, optional): Of forward passes. Default: 32.

    Raises:
        TypeError: If the model is no Module or ``layers`` is a single one.
        ValueError: If there is no such layer, or an option is out of its range.

    Cost: a forward pass per sample; O(M² F + F³) for M references in a layer of F
    units, then O(N M F) for N samples; memory O(M F + F²).

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
    >>> net[0].weight = torch.nn.Parameter(torch.eye(2))
    >>> x = torch.rand(99, 2, generator=torch.Generator().manual_seed(0))
    >>> detector = AttackDetector(net, ["0"]).fit(x, x.argmax(dim=1))
    >>> usual, far = detector.score(torch.tensor([[0.2, 0.7], [0.0, 9.0]]))
    >>> bool(usual < detector.threshold() < far)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str | nn.Module],
        *,
        k: int = 10,
        pooling: Literal["mean", "flatten"] = "mean",
        batch_size: int = 32,
    ) -> None:
        if isinstance(layers, (str, nn.Module)):
            raise TypeError(
                f"expected a list of layers (got {type(layers).__name__}); one layer "
                "is [layer]"
            )
        if not layers:
            raise ValueError("expected at least one layer (got none)")
        for name, value in (("k", k), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"expected {name} >= 1 (got {value})")
        if pooling not in ("mean", "flatten"):
            raise ValueError(f"expected pooling 'mean' or 'flatten' (got {pooling!r})")
        self.model = model
        self.layers = [as_module(model, layer) for layer in layers]
        self.k = k
        self.pooling = pooling
        self.batch_size = batch_size
        self._fitted: list[LayerStatistics] = []

    def fit(self: Self, references: Any, labels: Any = None) -> Self:
        """Learns what is usual.

        Args:
            references (Tensor, Dataset or DataLoader): Inputs (M, ...) that were not
                attacked, best such as the model was not trained on; a data set of
                ``(x, ..., label)`` brings its labels. Those that the model gets wrong
                set the threshold, and are no neighbours.
            labels (Tensor, optional): Classes as the model numbers its scores, (M,).
                Default: None: those of the data set.

        Returns:
            AttackDetector: Itself.

        Raises:
            TypeError: If references are none of these, or tensors without labels.
            ValueError: If shapes do not fit, latents are not finite, or a class that
                the model names rightly has a single reference.

        Cost: as that of the class.
        """
        latents, scores, given = self._run(references, labels)
        predicted = decisions(scores)
        if given is None:
            raise TypeError(
                "expected labels with references that are tensors (got None)"
            )
        right = predicted == given.to(predicted.device)
        if not bool(right.any()):
            raise ValueError(
                "expected references that the model classifies rightly (got none); "
                "labels are the numbers of its scores"
            )
        classes = predicted[right]
        fewest = int(classes.unique(return_counts=True)[1].min())
        rest = len(classes) - int(classes.unique(return_counts=True)[1].max())
        k = min(self.k, fewest - 1, rest)
        if k < 1:
            raise ValueError(
                "expected two classes or more, and of each two references that the "
                f"model gets right (got {classes.bincount().tolist()} a class)"
            )
        self._fitted = [LayerStatistics.fit(x[right], classes, k) for x in latents]
        alone = torch.stack([layer.of_references() for layer in self._fitted], dim=1)
        gap = log_gap(scores[right])
        self._usual = Usual.of(alone, gap)
        known = self._usual.score(alone, gap)
        wrong = self._of([x[~right] for x in latents], scores[~right])
        self._reference_scores = torch.cat([known, wrong]).sort().values
        return self

    def score(self, new: Any) -> Tensor:
        """How suspicious new inputs are.

        Args:
            new (Tensor, Dataset or DataLoader): Inputs (N, ...); labels of a data set
                have no effect.

        Returns:
            Tensor: Shape (N,), larger = more suspicious; infinite where
            the decision is a class without references.

        Raises:
            TypeError: If ``new`` is none of these.
            ValueError: If latents are not finite.
            RuntimeError: Before :meth:`fit`.

        Cost: as that of the class; a sample's score does not depend on its batch.
        """
        self._check_fitted()
        latents, scores, _ = self._run(new, None)
        return self._of(latents, scores)

    def threshold(self, at_false_alarms: float = 0.05) -> float:
        """The score above which at most a share of samples like the references are.

        Args:
            at_false_alarms (float, optional): The share. Default: 0.05.

        Returns:
            float: The threshold: ``score(new) > threshold`` is an alarm. It is
            infinite where references are too few for so small a share.

        Raises:
            ValueError: If the share is not between 0 and 1.
            RuntimeError: Before :meth:`fit`.

        Cost: none.

        That holds on average for new samples drawn as the references were; those that
        the model was trained on are more usual to it, and promise too much.
        """
        self._check_fitted()
        if not 0 < at_false_alarms < 1:
            raise ValueError(
                f"expected at_false_alarms within (0, 1) (got {at_false_alarms})"
            )
        n = len(self._reference_scores)
        # Of n + 1 exchangeable scores the last is among the largest so often.
        rank = math.ceil((n + 1) * (1 - at_false_alarms) - 1e-9)
        return math.inf if rank > n else float(self._reference_scores[rank - 1])

    def statistics(self, new: Any) -> Tensor:
        """The numbers that the score is made of.

        Args:
            new (Tensor, Dataset or DataLoader): As in :meth:`score`.

        Returns:
            Tensor: Shape (N, 3 L + 1): for each of L layers the filtered distances to
            the predicted class and to the others, and the unfiltered ratio, all
            logarithms; at the end the logarithm of the gap of the model's scores.
            Where known attacks shall count, a classifier may learn from these.

        Raises:
            TypeError: As :meth:`score`.
            ValueError: As :meth:`score`.
            RuntimeError: Before :meth:`fit`.

        Cost: as :meth:`score`.
        """
        self._check_fitted()
        latents, scores, _ = self._run(new, None)
        layers = self._statistics(latents, scores)
        return torch.cat([layers.flatten(1), log_gap(scores)[:, None]], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`fit` has learnt, as tensors and numbers.

        Returns:
            dict: For :meth:`load_state_dict`; ``torch.save`` writes it, and
            ``torch.load(..., weights_only=True)`` reads it.

        Raises:
            RuntimeError: Before :meth:`fit`.

        Cost: none; tensors are not copied.
        """
        self._check_fitted()
        return {
            "layers": [dict(vars(layer)) for layer in self._fitted],
            "usual": dict(vars(self._usual)),
            "reference_scores": self._reference_scores,
            "pooling": self.pooling,
        }

    def load_state_dict(self: Self, state: Mapping[str, Any]) -> Self:
        """Takes what another has learnt of the same model and layers.

        Args:
            state (dict): Of :meth:`state_dict`.

        Returns:
            AttackDetector: Itself.

        Raises:
            ValueError: If it is of another number of layers or another pooling.

        Cost: none.
        """
        if len(state["layers"]) != len(self.layers):
            raise ValueError(
                f"expected the state of {len(self.layers)} layers "
                f"(got {len(state['layers'])}); make it with the same layers"
            )
        if state["pooling"] != self.pooling:
            raise ValueError(
                f"expected a state of pooling={self.pooling!r} "
                f"(got {state['pooling']!r})"
            )
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))

        def here(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        self._fitted = [
            LayerStatistics(**{name: here(value) for name, value in layer.items()})
            for layer in state["layers"]
        ]
        usual = {name: here(value) for name, value in state["usual"].items()}
        self._usual = Usual(**usual)
        self._reference_scores = here(state["reference_scores"])
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what :meth:`fit` has learnt, without the model and without pickle.

        Args:
            path (str or Path): The file, best named ``.npz``; it is replaced.

        Raises:
            OSError: If it cannot be written.
            RuntimeError: Before :meth:`fit`.

        Cost: that of writing the references' latents.
        """
        write_record(Path(path), _KIND, _VERSION, self.state_dict())

    def load(self: Self, path: str | os.PathLike[str]) -> Self:
        """Reads what :meth:`save` wrote of the same model and layers.

        Args:
            path (str or Path): The file. Nothing in it is executed.

        Returns:
            AttackDetector: Itself, as after :meth:`fit`.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is no such file, or as :meth:`load_state_dict`.

        Cost: that of reading.
        """
        return self.load_state_dict(read_record(Path(path), _KIND, _VERSION))

    def as_pytorch_ood(self) -> Detector:
        """This detector with the interface of pytorch-ood, for its benchmarks.

        Returns:
            pytorch_ood.api.Detector: Its ``fit(data_loader)`` leaves out samples with
            labels below 0, as is the custom there, and takes shuffled ones too;
            ``predict(x)`` is :meth:`score`. Both share what is fitted.

        Raises:
            ImportError: If pytorch-ood (0.4 or later) is not installed.

        Cost: none.
        """
        from captum_margin.influence._pytorch_ood import adapter

        return adapter(self)

    @property
    def fitted(self) -> bool:
        """Whether :meth:`fit`, :meth:`load` or :meth:`load_state_dict` was called."""
        return bool(self._fitted)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise RuntimeError("expected fit(references, labels), or load(), first")

    def _of(self, latents: list[Tensor], scores: Tensor) -> Tensor:
        """How suspicious samples of these latents and scores of the model are."""
        layers = self._statistics(latents, scores)
        found = self._usual.score(layers, log_gap(scores))
        known = torch.isin(decisions(scores), self._fitted[0].classes)
        return found.where(known, torch.inf)

    def _statistics(self, latents: list[Tensor], scores: Tensor) -> Tensor:
        """Of each layer, (N, L, 3)."""
        predicted = decisions(scores)
        pairs = zip(self._fitted, latents, strict=True)
        return torch.stack([layer.of(x, predicted) for layer, x in pairs], dim=1)

    def _run(self, data: Any, labels: Any) -> tuple[list[Tensor], Tensor, Any]:
        """Latents of each layer, scores of the model, and labels if there are any."""
        latents: list[list[Tensor]] = [[] for _ in self.layers]
        outputs: list[Tensor] = []
        given: list[Any] = []
        with evaluating(self.model), ExitStack() as stack:
            captured = [stack.enter_context(outputs_of(m)) for m in self.layers]
            for inputs, own in self._batches(data):
                for found in captured:
                    found.clear()
                scores = self.model(*inputs)
                outputs.append(scores.float())
                given.extend([] if own is None else own)
                for found, rows in zip(captured, latents, strict=True):
                    rows.append(_latent(found, self.pooling, len(scores)))
        if not outputs:
            raise ValueError("expected at least one sample (got none)")
        scores = torch.cat(outputs)
        if labels is None and given:
            labels = given
        if labels is not None:
            labels = torch.as_tensor(labels)
            if labels.shape != scores.shape[:1]:
                raise ValueError(
                    f"expected labels of shape {tuple(scores.shape[:1])} "
                    f"(got {tuple(labels.shape)}); one per reference"
                )
        return [torch.cat(rows) for rows in latents], scores, labels

    def _batches(self, data: Any) -> Iterator[tuple[list[Any], Any]]:
        """Inputs of a batch on the model's device, and labels if there are any."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        if isinstance(data, Tensor):
            for part in data.split(self.batch_size):
                yield [part.to(device)], None
            return
        for batch in as_loader(as_dataset(data), self.batch_size):
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                raise TypeError(
                    "expected a tensor, or items (x, ..., label) "
                    f"(got batches of {type(batch).__name__})"
                )
            inputs = [x.to(device) if isinstance(x, Tensor) else x for x in batch[:-1]]
            own = batch[-1]
            yield inputs, own.tolist() if isinstance(own, Tensor) else own


def _latent(found: list[Any], pooling: str, rows: int) -> Tensor:
    """One row of a layer's output per sample."""
    if len(found) != 1 or not isinstance(found[0], Tensor):
        raise ValueError(
            "expected a layer that runs once and returns one tensor (got "
            f"{[type(value).__name__ for value in found]}); choose another"
        )
    values = pooled(found[0], pooling).float()
    if len(values) != rows:
        raise ValueError(f"expected one row per sample, {rows} (got {len(values)})")
    if not bool(values.isfinite().all()):
        raise ValueError("expected finite latents (got NaN or infinity)")
    return values
