"""Pictures whose evidence is known: two tetrominoes in correlated noise, and a network.

In the manner of XAI-TRIS (Clark et al., "XAI-TRIS: Non-linear image benchmarks to
quantify false positive post-hoc attribution of feature importance", Machine Learning
2024), written anew. Pictures have 32 x 32 pixels, and shapes are made of squares of
four pixels. They lie half a square off the grid of eight by eight that some methods put
on a picture, so that no grid is theirs. A T has its place at the upper left, an L at
the lower right, and both they and the Gaussian noise upon them are smooth over two
pixels.

- linear: class 0 has the T, class 1 the L.
- xor: both shapes are there, each lighter or darker than the noise; class 1 if both are
  the same, 0 if not. No pixel alone says anything of the class.

What the class can be told from are the pixels of both places, in both problems: where
one shape is missing, the other class is told. Outside them is nothing but noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from captum_margin.metrics import gaussian_blur
from tests.benchmarks.networks.trained import CountedNetwork

Problem = Literal["linear", "xor"]
PROBLEMS: tuple[Problem, ...] = ("linear", "xor")
CELLS, CELL = 8, 4
T = ((1, 1), (1, 2), (1, 3), (2, 2))
L = ((4, 5), (5, 5), (6, 5), (6, 6))
STRENGTH: dict[Problem, float] = {"linear": 2.5, "xor": 2.2}
SMOOTH = 2.0  # standard deviation of the noise's blur, pixels
N_TRAINING, N_EVALUATION = 4000, 1000
SEEDS = {"training": 0, "evaluation": 1}
EPOCHS = 8


class Shapes(NamedTuple):
    """Pictures of one problem.

    Args:
        images: (N, 3, 32, 32), three equal channels.
        classes: 0 or 1, (N,).
    """

    images: Tensor
    classes: Tensor


def place(cells: tuple[tuple[int, int], ...]) -> Tensor:
    """The pixels of a shape, bool, (32, 32)."""
    grid = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    for row, column in cells:
        grid[row, column] = True
    pixels = grid.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    return pixels.roll((CELL // 2, CELL // 2), dims=(0, 1))


def mask() -> Tensor:
    """What all maps should show, bool, (32, 32): an eighth of the picture."""
    return place(T) | place(L)


def made(problem: Problem, split: Literal["training", "evaluation"]) -> Shapes:
    """The pictures of a split, the same at every call."""
    n = N_TRAINING if split == "training" else N_EVALUATION
    generator = torch.Generator().manual_seed(SEEDS[split])
    side = CELLS * CELL
    wide = torch.randn(n, 1, side + 16, side + 16, generator=generator)
    noise = gaussian_blur(wide, SMOOTH, 13)[:, :, 8:-8, 8:-8]
    noise = noise / noise.std()
    first = torch.randint(2, (n,), generator=generator)
    second = torch.randint(2, (n,), generator=generator)
    t, l = (place(shape).float() for shape in (T, L))  # noqa: E741
    if problem == "linear":
        classes = first
        drawn = torch.where(first.view(-1, 1, 1) == 0, t, l)
    else:
        classes = (first == second).long()
        of_t, of_l = ((2.0 * sign - 1).view(-1, 1, 1) for sign in (first, second))
        drawn = of_t * t + of_l * l
    # As smooth as the noise: sharp edges would stand out of it at any strength.
    drawn = gaussian_blur(drawn[:, None], SMOOTH, 13)
    images = noise + STRENGTH[problem] * drawn
    return Shapes(images.expand(-1, 3, -1, -1).contiguous(), classes)


def untrained() -> tuple[nn.Sequential, nn.Sequential]:
    """Convolutions, and what makes scores of their maps of 8 x 8."""
    below = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
    )
    above = nn.Sequential(
        nn.Flatten(), nn.Linear(16 * 64, 32), nn.ReLU(), nn.Linear(32, 2)
    )
    return below, above


def trained(problem: Problem, cache: Path) -> CountedNetwork:
    """The network of a problem; trained where the cache lacks it, in a minute."""
    path = cache / f"{problem}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        below, above = untrained()
        net = nn.Sequential(below, above)
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True))
        else:
            _train(net, made(problem, "training"))
            torch.save(net.state_dict(), path)
    net.eval().requires_grad_(False)
    return CountedNetwork(below, above, net, torch.float32, torch.zeros(1, 3, 1, 1))


def _train(net: nn.Module, shapes: Shapes) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(shapes.images)).split(100):
            loss = nn.functional.cross_entropy(
                net(shapes.images[rows]), shapes.classes[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def probabilities(net: CountedNetwork, images: Tensor) -> Tensor:
    """Of both classes, (N, 2)."""
    return torch.cat([net(part).softmax(dim=1) for part in images.split(100)])
