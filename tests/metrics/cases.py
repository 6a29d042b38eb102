"""Models, images and maps the metric tests share."""

import torch
from torch import nn

CLASSES = 4


def images(batch=3, channels=3, height=6, width=5, seed=0):
    """Positive float64 images."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5


def maps(x, kind="dense", seed=1):
    """Maps (B, C, H, W): all values distinct, few values, or mostly zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (x.shape[0], 1, *x.shape[2:])
    values = torch.randn(shape, generator=generator, dtype=x.dtype)
    if kind == "regions":  # as many values in one example as in none other
        levels = torch.arange(1, x.shape[0] + 1).view(-1, 1, 1, 1)
        values = (values * levels).round()
    elif kind == "sparse":
        values = values.clamp(min=1.0) - 1.0
    elif kind == "constant":
        values = torch.full(shape, 0.25, dtype=x.dtype)
    return values.expand_as(x)


def linear(x, n_outputs=CLASSES, seed=2, positive=False):
    """A linear model, float64, in the image's size."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), n_outputs)).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        draw = torch.rand if positive else torch.randn
        parameter.data = draw(parameter.shape, generator=generator, dtype=x.dtype)
        parameter.data *= 0.3
    return model.eval()


def conv(x, seed=3):
    """A small convolutional net, float64."""
    model = nn.Sequential(
        nn.Conv2d(x.shape[1], 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(
            parameter.shape, generator=generator, dtype=x.dtype
        )
    return model.eval()


def deciding(x, seed=6):
    """A linear model whose decisions differ and need many pixels to stand."""
    model = linear(x, seed=seed)
    model[1].bias.data = -model[1].weight.data.sum(dim=1)  # images are about one
    return model


def numpy_row(model, softmax=True):
    """A model as a function from one NumPy image to a NumPy row of outputs."""

    def row(image):
        with torch.no_grad():
            output = model(torch.from_numpy(image)[None])
        if softmax and output.dim() == 2 and output.shape[1] > 1:
            output = output.softmax(dim=1)
        return output.reshape(-1).numpy()

    return row


class Counted(nn.Module):
    """Counts the rows a model sees and the largest batch of them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows, self.largest = model, 0, 0

    def forward(self, x):
        self.rows += len(x)
        self.largest = max(self.largest, len(x))
        return self.model(x)
