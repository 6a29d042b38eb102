"""The photographs as the networks of torchvision take them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def load_image(path: Path) -> Tensor:
    """The standard preprocessing: short side 256, centre crop 224, normalised."""
    from PIL import Image
    from torchvision.transforms import v2

    preprocess = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return (preprocess(Image.open(path).convert("RGB"))[None] - MEAN) / STD
