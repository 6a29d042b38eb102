"""Rows of tokens: which are places, and what grid they are."""

from functools import partial

import pytest
import torch
from torch import nn

from captum_margin._model.layers import layer_of_maps, maps_shape
from captum_margin.attr import (
    CoalitionPerturbation,
    RepresentativeInterpretation,
    last_conv_layer,
    tokens_to_maps,
)


def tokens(n_before, h, w):
    """Tokens of one channel whose places hold their number; the others are -1."""
    places = torch.arange(h * w).view(1, -1, 1)
    return torch.cat([torch.full((1, n_before, 1), -1), places], dim=1)


@pytest.mark.parametrize(
    ("n_before", "side"),
    [(1, 14), (1, 16), (1, 24), (1, 7), (2, 14), (5, 14), (5, 37), (0, 3), (1, 2)],
)
def test_certain_squares(n_before, side):
    maps = tokens_to_maps(tokens(n_before, side, side))
    assert torch.equal(maps, torch.arange(side * side).view(1, 1, side, side))


@pytest.mark.parametrize(
    ("n_tokens", "words"),
    [
        (225, "no other token and 15 x 15 places, or a class token and 14 x 16"),
        (196, "no other token and 14 x 14 places, or a class token and 13 x 15"),
        (261, "a class token and 4 registers and 16 x 16 places, or a class token and"),
        (171, "a distillation token and 13 x 13 places, or a class token and 10 x 17"),
        (1 + 14 * 20, "a class token and 14 x 20 places"),
        (213, "they may be of any"),
    ],
)
def test_what_is_not_certain_is_refused(n_tokens, words):
    with pytest.raises(ValueError, match=f"expected a grid for {n_tokens} tokens") as e:
        tokens_to_maps(torch.rand(1, n_tokens, 4))
    assert words in str(e.value)
    assert "functools.partial(tokens_to_maps, grid=(h, w))" in str(e.value)


@pytest.mark.parametrize("n_before", [0, 1, 2, 5, 17])
def test_a_grid_that_is_given(n_before):
    maps = tokens_to_maps(tokens(n_before, 14, 16), grid=(14, 16))
    assert torch.equal(maps, torch.arange(14 * 16).view(1, 1, 14, 16))


def test_a_grid_that_does_not_fit():
    with pytest.raises(ValueError, match=r"at most 197 places, .* \(got \(14, 16\)"):
        tokens_to_maps(torch.rand(1, 197, 4), grid=(14, 16))
    with pytest.raises(ValueError, match=r"of the grid \(6, 8\) \(got \(1, 7, 7, 4\)"):
        tokens_to_maps(torch.rand(1, 7, 7, 4), grid=(6, 8))
    assert tokens_to_maps(torch.rand(1, 6, 8, 4), grid=(6, 8)).shape == (1, 4, 6, 8)


@pytest.mark.parametrize(
    ("n_tokens", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),
        (196, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (261, (224, 224), (16, 16)),
        (225, (224, 224), (15, 15)),
        (225, (224, 256), (14, 16)),
        (229, (224, 256), (14, 16)),
        (1 + 26 * 35, (375, 500), (26, 35)),  # patches of 14, the rest is cut off
    ],
)
def test_the_image_tells_the_grid(n_tokens, size, grid):
    assert maps_shape((1, n_tokens, 8), size) == (1, 8, *grid)


def test_tokens_that_are_no_patches():
    assert maps_shape((1, 199, 8), (224, 224)) is None


class Wide(nn.Module):
    """A transformer of patches of 4 pixels, 4 x 6 of them behind a class token.

    Its score for class 0 is the brightness of the patch in row 1 and column 4.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.patches.weight.data.fill_(0.1)
        self.norm = nn.Identity()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        places = self.patches(x).flatten(2).transpose(1, 2)
        every = torch.cat([places.new_zeros(len(x), 1, 8), places], dim=1)
        every = self.norm(every)
        self.attention(every, every, every)
        score = every[:, 1 + 1 * 6 + 4].sum(dim=1)
        return torch.stack([score, 0.3 * every.mean(dim=(1, 2))], dim=1)


def test_wide_images():
    model, x = Wide().eval(), 0.1 * torch.rand(6, 3, 16, 24)
    x[0, :, 4:8, 16:20] = 1.0
    layer, reshape = layer_of_maps(model, x)
    assert layer.name == "norm" and layer.shape == (6, 8, 4, 6)
    grid = partial(tokens_to_maps, grid=(4, 6))
    values = torch.rand(1, 25, 8)
    assert torch.equal(reshape(values), grid(values))
    with pytest.raises(ValueError, match=r"partial\(tokens_to_maps, grid=\(4, 6\)\)"):
        last_conv_layer(model, x)
    maps = RepresentativeInterpretation(
        model, model.norm, references=x, reshape_transform=grid
    ).attribute(x[:1], target=0)
    assert maps[0, 0].argmax() == 1 * 6 + 4
    wrong = RepresentativeInterpretation(
        model, model.norm, references=x, reshape_transform=tokens_to_maps
    )
    with pytest.raises(ValueError, match="expected a grid for 25 tokens"):
        wrong.attribute(x[:1], target=0)
    found = CoalitionPerturbation(model).attribute(x[:1], target=0, n_steps=3)
    assert found.shape == x[:1].shape
