"""What in a sample's features speaks for another class than its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from captum_margin.influence.settings import Settings, as_points
from captum_margin.signal._kernel_ridge import Fit

__all__ = ["Evidence"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """How much features speak for another class rather than for a sample's own.

    Of :meth:`LabelNoise.evidence`. A function of features (n, F), such as those of
    the image with a part hidden: the votes of all samples but this one for the other
    class, less those for its own, near 1 where they are for the other alone and near
    -1 where they are for its own. Gradients pass.

    Args:
        given (int): Number of the sample's class.
        other (int): Number of the other class.
        fit (Fit): The regression on the others, not shown.
        settings (Settings): With the metric, not shown.
    """

    given: int
    other: int
    fit: Fit = field(repr=False)
    settings: Settings = field(repr=False)

    def __call__(self, features: Tensor) -> Tensor:
        """The difference of the votes at features (n, F), shape (n,)."""
        points = as_points(features, self.settings)
        landmarks = self.fit.landmarks.to(points)
        # As a product, for the distances themselves have no gradient at a landmark.
        square = points.square().sum(dim=1, keepdim=True) + landmarks.square().sum(
            dim=1
        )
        square = (square - 2 * points @ landmarks.T).clamp(min=0)
        kernel = (-self.fit.gamma * square).exp()
        slope = (self.fit.slope[:, self.other] - self.fit.slope[:, self.given]).to(
            points
        )
        intercept = self.fit.intercept[self.other] - self.fit.intercept[self.given]
        return cast(Tensor, kernel @ slope + intercept.to(points)).to(features)

    def slope(self, features: Tensor) -> Tensor:
        """How fast the difference grows with each feature, at features (n, F), (n, F).

        By cosine a row of it is orthogonal to that of the features, whose length says
        nothing.
        """
        with torch.enable_grad():
            at = features.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self(at).sum(), at)
        return slope

    def positions(self, maps: Tensor) -> Tensor:
        """Where the maps that features are the mean of speak for the other class.

        As class activation maps do: the slope at the mean, times the features of each
        position. The mean over the positions is the slope times the features: what they
        say in a linear approximation, which by cosine is zero, so that there the map is
        positive where an image speaks more for the other class than as a whole.

        Args:
            maps (Tensor): Of n samples, (n, F, h, w), h and w positions.

        Returns:
            Tensor: Shape (n, h, w), positive for the other class.
        """
        slope = self.slope(maps.flatten(2).mean(dim=2))
        return torch.einsum("nf,nfhw->nhw", slope, maps)
