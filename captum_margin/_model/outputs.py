"""Whether a model's outputs look like logits of one choice, as a softmax wants them."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["SoftmaxWatch", "are_probabilities"]

#: Logits of few rows and classes may all lie between 0 and 1 by chance.
_MIN_VALUES = 32
#: Sigmoids are never 0; small logits behind a rectifier (SqueezeNet's) often are.
_MOST_ZEROS = 0.05


def are_probabilities(scores: Tensor) -> bool:
    """Whether rows (B, C) look like the output of a softmax."""
    return bool((scores >= 0).all() and (scores.sum(dim=1) - 1).abs().max() < 1e-3)


class SoftmaxWatch:
    """Notes the outputs that a softmax is put on, and warns once of what are no logits.

    Probabilities are told by their sums, and the outputs of sigmoids (several labels,
    shares) by their range: all values of a run, masked copies included, lie between 0
    and 1, and few are 0. Nothing can be told of others: two regressions of any range,
    or one logit for each of several labels, look like logits of one choice.
    """

    def __init__(self) -> None:
        self._n_values = 0
        self._n_zeros = 0
        self._within = True
        self._sum_to_one = True

    def note(self, output: Tensor) -> None:
        """Takes in rows of outputs, (n, C)."""
        self._n_values += output.numel()
        if self._within:
            self._n_zeros += int((output == 0).sum())
            self._within = bool((output >= 0).all() and (output <= 1).all())
        if self._sum_to_one:
            self._sum_to_one = are_probabilities(output)

    def warn(self, stacklevel: int = 2) -> None:
        """Warns if what was noted does not look like logits of one choice."""
        if self._n_values == 0:
            return
        if self._sum_to_one:
            warnings.warn(
                "the model's outputs are probabilities already: pass softmax=False, "
                "or return logits, so that the softmax is not applied twice",
                stacklevel=stacklevel + 1,
            )
            return
        rectified = self._n_zeros > _MOST_ZEROS * self._n_values
        if self._within and not rectified and self._n_values >= _MIN_VALUES:
            warnings.warn(
                "the model's outputs all lie between 0 and 1 and do not sum to 1, as "
                "of sigmoids for several labels, and get a softmax as if they were "
                "logits of one choice: pass softmax=False to explain the target's "
                "output itself",
                stacklevel=stacklevel + 1,
            )
