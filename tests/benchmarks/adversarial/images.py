"""Attacked MNIST images for the benchmark of adversarial statistics.

The net is the smaller architecture of Carlini and Wagner (*Towards Evaluating the
Robustness of Neural Networks*, https://arxiv.org/abs/1608.04644, table 1): two 3x3
convolutions of 32 channels, pooling, two of 64, pooling, two fully connected layers of
200 and the ten logits, on pixels in [0, 1].

Attacks: ``captum.robust.FGSM``, and the L2 attack of Carlini and Wagner as foolbox
(``pip install foolbox``) has it. What is trained or attacked is kept in a cache folder,
and made there with a seed if it is missing:

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.adversarial.images --cache DIR
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captum.robust import FGSM
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SEED = 0
TRAINED_ON = 20_000
EPOCHS = 5
CHUNK = 125
EPSILONS = {"FGSM 0.1": 0.1, "FGSM 0.15": 0.15, "FGSM 0.3": 0.3}
CW = "Carlini-Wagner L2"
ATTACKS = (*EPSILONS, CW)
CW_OPTIONS = {
    "binary_search_steps": 3,
    "steps": 60,
    "stepsize": 0.1,
    "initial_const": 1.0,
    "confidence": 0.0,
}


class CarliniNet(nn.Module):
    """(B, 1, 28, 28) -> (B, 10); the layer ``hidden`` gives the last 200 units."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.first = nn.Sequential(nn.Linear(1024, 200), nn.ReLU())
        self.dropout = nn.Dropout(0.5)
        self.hidden = nn.Sequential(nn.Linear(200, 200), nn.ReLU())
        self.logits = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(self.dropout(self.first(self.maps(x))))
        return self.logits(hidden)  # type: ignore[no-any-return]


@dataclass
class Attacked:
    """A trained net and test images, drawn at random, before and after the attacks.

    Attributes:
        model: The net, in evaluation mode.
        accuracy: On the 10,000 test images.
        train: What the net was trained on, images (M, 1, 28, 28) and labels (M,).
        images: Test images (N, 1, 28, 28), also those that it takes for others.
        labels: Theirs, (N,).
        attacked: The same images attacked, by attack.
        seconds: What each attack took.
    """

    model: CarliniNet
    accuracy: float
    train: tuple[Tensor, Tensor]
    images: Tensor
    labels: Tensor
    attacked: dict[str, Tensor]
    seconds: dict[str, float]


def digits(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """MNIST, pixels in [0, 1] (N, 1, 28, 28), in a fixed random order."""
    data = np.load(root / f"mnist_{part}.npz")
    order = np.random.default_rng(SEED).permutation(len(data["labels"]))
    images = torch.from_numpy(data["images"][order]).float().div(255)[:, None]
    return images, torch.from_numpy(data["labels"][order]).long()


def train(x: Tensor, y: Tensor) -> CarliniNet:
    """The net, by Adam with a falling step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = CarliniNet()
        batches = EPOCHS * (len(x) // 100)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, batches)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(100):
                loss = cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """Classes (N,)."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(dim=1) for part in x.split(CHUNK)])


def attack(model: CarliniNet, x: Tensor, y: Tensor, name: str) -> Tensor:
    """Attacked images, in [0, 1]; where an attack fails, what it got to."""
    if name in EPSILONS:
        fgsm = FGSM(model, lower_bound=0.0, upper_bound=1.0)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        return torch.cat(
            [fgsm.perturb(a, EPSILONS[name], b).detach() for a, b in parts]
        )
    import foolbox

    net = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    method = foolbox.attacks.L2CarliniWagnerAttack(**CW_OPTIONS)
    return torch.cat(
        [
            method(net, a, b, epsilons=None)[0].detach()
            for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        ]
    )


def prepare(root: Path, cache: Path, first: int, count: int) -> Attacked:
    """The net and ``count`` random test images, skipping ``first`` of their order."""
    cache.mkdir(parents=True, exist_ok=True)
    x, y = digits(root, "train")
    x, y = x[:TRAINED_ON], y[:TRAINED_ON]
    weights = cache / "carlini_net.pt"
    if not weights.exists():
        torch.save(train(x, y).state_dict(), weights)
    model = CarliniNet()
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images, labels = digits(root, "test")
    accuracy = float((predicted(model, images) == labels).double().mean())
    part = slice(first, first + count)
    images, labels = images[part], labels[part]
    attacked, seconds = {}, {}
    for name in ATTACKS:
        file = cache / f"{name.replace(' ', '_')}_{first}_{count}.pt"
        if not file.exists():
            start = time.process_time()
            value = attack(model, images, labels, name)
            torch.save({"x": value, "seconds": time.process_time() - start}, file)
        stored = torch.load(file, weights_only=True)
        attacked[name], seconds[name] = stored["x"], round(stored["seconds"], 1)
    return Attacked(model, accuracy, (x, y), images, labels, attacked, seconds)


def main() -> None:
    """Trains and attacks what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    data = prepare(root, args.cache, args.first, args.count)
    print(f"accuracy {data.accuracy:.4f}")
    for name, x in data.attacked.items():
        fooled = (predicted(data.model, x) != data.labels).double().mean()
        length = (x - data.images).flatten(1).norm(dim=1).mean()
        print(f"{name:20} fooled {fooled:.3f} L2 {length:.2f} {data.seconds[name]} s")


if __name__ == "__main__":
    main()
