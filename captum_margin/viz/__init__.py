"""Pictures of attributions, thin over :mod:`captum.attr.visualization`."""

from captum_margin.viz.comparison import visualize_comparison

__all__ = ["visualize_comparison"]
