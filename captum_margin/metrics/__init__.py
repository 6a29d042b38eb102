"""How faithful is a map? Metrics that run the model and need no ground truth.

- :func:`insertion_deletion`: the score while the top pixels are inserted, or removed.
- :func:`average_drop`: how much of the score what the map keeps of the image loses.
- :func:`smallest_region`: how few of the top pixels keep the model's decision.
- :func:`evaluate`: all of these in one call.
- :func:`gaussian_blur`: the default insertion baseline, for another sigma or size.

All take what an attribution method takes and gives: model, images (B, C, H, W), maps,
target. Pixels of equal value have no order and are scored as a group, so that maps of
superpixels and sparse maps are treated fairly. Every result stores its settings.
"""

from captum_margin.metrics._average_drop import AverageDrop, average_drop
from captum_margin.metrics._evaluation import Evaluation, evaluate
from captum_margin.metrics._images import gaussian_blur
from captum_margin.metrics._insertion_deletion import (
    InsertionDeletion,
    insertion_deletion,
)
from captum_margin.metrics._smallest_region import SmallestRegion, smallest_region

__all__ = [
    "AverageDrop",
    "Evaluation",
    "InsertionDeletion",
    "SmallestRegion",
    "average_drop",
    "evaluate",
    "gaussian_blur",
    "insertion_deletion",
    "smallest_region",
]
