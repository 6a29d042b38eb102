"""A map that another network has too shows the image, not what the network learnt."""

import pytest
import torch
from torch import nn

from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)

LOOKS_AT = (slice(1, 4), slice(4, 7))  # cells of 4 x 4 pixels


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 2),
    ).eval()


@pytest.fixture
def planted():
    """Class 1 where the cells of a box are bright."""
    net = network()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[:, :, 1, 1] = 1.0 / 3.0
        net[0].bias.zero_()
        head = torch.zeros(4, 8, 8)
        head[(slice(None), *LOOKS_AT)] = 0.5
        net[4].weight.copy_(torch.stack([-head.flatten(), head.flatten()]))
        net[4].bias.copy_(torch.tensor([9.0, -9.0]))
    return net


def randomised(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network()


@pytest.fixture
def image():
    return images_of(0.9)[:1]


def images_of(brightness, count=4):
    """Cells of any brightness, those of the box of the one given."""
    generator = torch.Generator().manual_seed(int(10 * brightness))
    cells = torch.rand(count, 1, 8, 8, generator=generator)
    cells[(..., *LOOKS_AT)] = brightness
    images = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return images + 0.1 * torch.rand(count, 3, 32, 32, generator=generator)


def margin(net, image):
    return MarginSaliency(net).attribute(image, target=1, n_evaluations=300)


def coalition(net, image):
    return CoalitionPerturbation(net).attribute(image, target=1, n_steps=30)


def representative(net, image):
    references = torch.cat([images_of(0.9, 20), images_of(0.2, 20)])
    explainer = RepresentativeInterpretation(net, net[2]).fit(references, seed=0)
    return explainer.attribute(image, target=1)


METHODS = [margin, coalition, representative]


def correlation(one, other):
    if one.std() == 0 or other.std() == 0:
        return 0.0  # the same everywhere: it shows nothing
    pair = torch.stack([heat.mean(dim=1).flatten() for heat in (one, other)])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.parametrize("method", METHODS)
# A random network decides all references alike: its own boundary explains the image.
@pytest.mark.filterwarnings("ignore:no sampled boundary")
@pytest.mark.filterwarnings("ignore:the score of 1 of 1 images")
def test_another_network_has_another_map(method, planted, image):
    found = method(planted, image)
    box = torch.zeros(8, 8)
    box[LOOKS_AT] = 1.0
    scale = found.shape[-1] // 8
    where = box.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None, None]
    # Channel weights are the same everywhere: bright cells elsewhere light up too.
    assert correlation(found, where) > (0.3 if method is representative else 0.6)
    # One random network may look at the box by chance, five on the average do not.
    others = [correlation(found, method(randomised(s), image)) for s in range(5)]
    assert abs(sum(others) / 5) < 0.4


@pytest.mark.parametrize("method", METHODS)
def test_the_same_network_has_the_same_map(method, planted, image):
    assert torch.equal(method(planted, image), method(planted, image))
