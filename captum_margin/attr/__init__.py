"""Attribution methods, used as those of :mod:`captum.attr`."""

from captum_margin.attr._regions import slic_segments
from captum_margin.attr.coalition_perturbation import (
    CoalitionDetails,
    CoalitionPerturbation,
)
from captum_margin.attr.feature_coalitions import feature_coalitions
from captum_margin.attr.interpretation import (
    Boundaries,
    Interpretation,
    SimilarReferences,
)
from captum_margin.attr.interpretation_bank import (
    Assignment,
    Atlas,
    BankReport,
    Group,
    InterpretationBank,
)
from captum_margin.attr.margin_saliency import MarginDetails, MarginSaliency
from captum_margin.attr.representative_interpretation import (
    RepresentativeInterpretation,
)

__all__ = [
    "Assignment",
    "Atlas",
    "BankReport",
    "Boundaries",
    "CoalitionDetails",
    "CoalitionPerturbation",
    "Group",
    "Interpretation",
    "InterpretationBank",
    "MarginDetails",
    "MarginSaliency",
    "RepresentativeInterpretation",
    "SimilarReferences",
    "feature_coalitions",
    "slic_segments",
]
