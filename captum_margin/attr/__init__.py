"""Attribution methods, used as those of :mod:`captum.attr`."""

from captum_margin._model.layers import ConvLayer, last_conv_layer, tokens_to_maps
from captum_margin._model.segments import slic_segments
from captum_margin.attr.coalition import (
    CoalitionDetails,
    CoalitionPerturbation,
    feature_coalitions,
)
from captum_margin.attr.margin import MarginDetails, MarginSaliency
from captum_margin.attr.representative import (
    Assignment,
    Atlas,
    BankReport,
    Boundaries,
    Group,
    Interpretation,
    InterpretationBank,
    NearestClasses,
    RepresentativeDetails,
    RepresentativeInterpretation,
    SimilarReferences,
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
    "NearestClasses",
    "RepresentativeDetails",
    "RepresentativeInterpretation",
    "SimilarReferences",
    "feature_coalitions",
    "last_conv_layer",
    "slic_segments",
    "tokens_to_maps",
]
