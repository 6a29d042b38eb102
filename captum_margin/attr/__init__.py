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
    RepresentativeDetails,
    SimilarReferences,
)
from captum_margin.attr.interpretation_bank import (
    Assignment,
    Atlas,
    BankReport,
    Group,
    InterpretationBank,
)
from captum_margin.attr.layers import ConvLayer, last_conv_layer, tokens_to_maps
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
    "ConvLayer",
    "Group",
    "Interpretation",
    "InterpretationBank",
    "MarginDetails",
    "MarginSaliency",
    "RepresentativeDetails",
    "RepresentativeInterpretation",
    "SimilarReferences",
    "feature_coalitions",
    "last_conv_layer",
    "slic_segments",
    "tokens_to_maps",
]
