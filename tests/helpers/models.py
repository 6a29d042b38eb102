"""Models, images and partitions that the attribution tests share."""

import torch
from torch import nn


class Counted(nn.Module):
    """Counts the rows a model sees, its calls, and the largest batch."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows, self.calls, self.largest = model, 0, 0, 0

    def forward(self, x, *args):
        self.rows += len(x)
        self.calls += 1
        self.largest = max(self.largest, len(x))
        return self.model(x, *args)


class Planted(nn.Module):
    """Two logits: brightness of one box speaks for class 0, of another against it."""

    def __init__(self, for_it, against=None, gain=3.0):
        super().__init__()
        self.for_it, self.against, self.gain = for_it, against, gain

    def forward(self, x):
        rows, columns = self.for_it
        evidence = x[:, :, rows, columns].mean(dim=(1, 2, 3))
        if self.against is not None:
            rows, columns = self.against
            evidence = evidence - x[:, :, rows, columns].mean(dim=(1, 2, 3))
        return torch.stack([self.gain * evidence, torch.zeros_like(evidence)], dim=1)


class Scaled(nn.Module):
    """Logits of three classes that depend on a factor of each example."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, factor, power):
        return self.model(x) * factor.view(-1, 1) ** power


def conv(channels=3, classes=4, seed=0, dtype=torch.float64):
    """A small convolutional net with a GELU, no two of whose scores are alike."""
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 5, stride=3),
        nn.GELU(),
        nn.Conv2d(6, 4, 2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


def tabular(features=5, classes=3, seed=1):
    """A nonlinear float64 model of a few features."""
    model = nn.Sequential(
        nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes)
    ).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return model.eval()


def images(batch=2, channels=3, height=24, width=20, seed=2, dtype=torch.float64):
    """Smooth random images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 6, 5, generator=generator)
    fine = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (fine + 0.1 * torch.rand(fine.shape, generator=generator)).to(dtype)


def rows(batch=3, features=5, seed=3):
    """Float64 examples of a few features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, features, generator=generator, dtype=torch.float64)


def tiles(height, width, side):
    """Square tiles as a partition (H, W), the last ones cut off."""
    y = torch.arange(height)[:, None] // side
    x = torch.arange(width) // side
    return y * (int(x.max()) + 1) + x


def corners(channels=3, side=32, seed=4):
    """A noisy image with bright boxes in two corners, and those boxes."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.2 + 0.05 * torch.rand(1, channels, side, side, generator=generator)
    upper_left = (slice(2, 10), slice(2, 10))
    lower_right = (slice(side - 10, side - 2), slice(side - 10, side - 2))
    for box_rows, box_columns in (upper_left, lower_right):
        image[:, :, box_rows, box_columns] += 0.7
    return image, upper_left, lower_right
