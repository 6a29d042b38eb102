"""Attribution methods, used as those of :mod:`captum.attr`."""

from captum_margin.attr._regions import slic_segments
from captum_margin.attr.margin_saliency import MarginDetails, MarginSaliency

__all__ = ["MarginDetails", "MarginSaliency", "slic_segments"]
