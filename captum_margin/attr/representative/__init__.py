"""One explanation for all images that a layer's polytope holds together."""

from captum_margin.attr.representative.bank import (
    Assignment,
    Atlas,
    BankReport,
    Group,
    InterpretationBank,
)
from captum_margin.attr.representative.explainer import RepresentativeInterpretation
from captum_margin.attr.representative.interpretation import (
    Boundaries,
    Interpretation,
    NearestClasses,
    RepresentativeDetails,
    SimilarReferences,
)

__all__ = [
    "Assignment",
    "Atlas",
    "BankReport",
    "Boundaries",
    "Group",
    "Interpretation",
    "InterpretationBank",
    "NearestClasses",
    "RepresentativeDetails",
    "RepresentativeInterpretation",
    "SimilarReferences",
]
