"""How good is a map? What the model says of it, and what is known to be right.

Faithfulness: these run the model and need no ground truth.

- :func:`insertion_deletion`: the score while the top pixels are inserted, or removed.
- :func:`average_drop`: how much of the score what the map keeps of the image loses.
- :func:`smallest_region`: how few of the top pixels keep the model's decision.
- :func:`evaluate`: all of these in one call.
- :func:`gaussian_blur`: the default insertion baseline, for another sigma or size.

Localisation, where it is known what a map should show:

- :func:`grid_pointing`: how much of a map lies on the one image, in a grid of several,
  whose class is explained; for any method, and no labels are needed.
- :func:`localization`: how much of a map lies in a given mask or box.

The first four take what an attribution method takes and gives: model, images
(B, C, H, W), maps, target. Pixels of equal value have no order and are scored as a
group, so that maps of superpixels and sparse maps are treated fairly. Every result
stores its settings.
"""

from captum_margin.metrics._average_drop import AverageDrop, average_drop
from captum_margin.metrics._evaluation import Evaluation, evaluate
from captum_margin.metrics._grid_pointing import GridPointing, grid_pointing
from captum_margin.metrics._images import gaussian_blur
from captum_margin.metrics._insertion_deletion import (
    InsertionDeletion,
    insertion_deletion,
)
from captum_margin.metrics._localization import Localization, localization
from captum_margin.metrics._smallest_region import SmallestRegion, smallest_region

__all__ = [
    "AverageDrop",
    "Evaluation",
    "GridPointing",
    "InsertionDeletion",
    "Localization",
    "SmallestRegion",
    "average_drop",
    "evaluate",
    "gaussian_blur",
    "grid_pointing",
    "insertion_deletion",
    "localization",
    "smallest_region",
]
