"""A detector as pytorch-ood calls detectors; imported when it is asked for."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from pytorch_ood.api import Detector, RequiresFittingException
from torch import Tensor

__all__ = ["adapter"]


class _Scorer(Protocol):
    """What is adapted."""

    @property
    def fitted(self) -> bool: ...

    def fit(self, references: Any, labels: Any = None) -> Any: ...

    def score(self, new: Any) -> Tensor: ...


class _Adapter(Detector):
    requires_fit = True

    def __init__(self, detector: _Scorer) -> None:
        self.detector = detector

    def fit(self, data_loader: Any) -> _Adapter:
        """Of batches (x, label); labels below 0 are of other distributions there."""
        inputs, labels = [], []
        for x, y in data_loader:
            inputs.append(x[y >= 0])
            labels.append(y[y >= 0])
        self.detector.fit(torch.cat(inputs), torch.cat(labels))
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Scores (B,), larger = more suspicious."""
        if not self.detector.fitted:
            raise RequiresFittingException
        return self.detector.score(x)


def adapter(detector: _Scorer) -> Detector:
    """The detector with the interface of pytorch-ood."""
    return _Adapter(detector)
