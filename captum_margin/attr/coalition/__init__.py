"""What can be taken away: a mask found under the guidance of coalitions of features."""

from captum_margin.attr.coalition.clustering import feature_coalitions
from captum_margin.attr.coalition.perturbation import (
    CoalitionDetails,
    CoalitionPerturbation,
)

__all__ = ["CoalitionDetails", "CoalitionPerturbation", "feature_coalitions"]
