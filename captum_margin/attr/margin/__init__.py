"""Saliency without gradients: what a region's absence changes, filtered on a graph."""

from captum_margin.attr.margin.saliency import (
    MIN_EVALUATIONS,
    MarginDetails,
    MarginSaliency,
)

__all__ = ["MIN_EVALUATIONS", "MarginDetails", "MarginSaliency"]
