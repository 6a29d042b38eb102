"""Data sets and classifiers that the benchmarks of representative interpretations use.

Every net is a trunk of convolutions, the layer ``feature_map`` that all methods look
at, and a piecewise-linear head above it:

- ``cats_dogs_conv``: SqueezeNet 1.0 with ImageNet weights, retrained 1x1-convolution
  head (convolution, ReLU, mean over the map), as SqueezeNet's own.
- ``cats_dogs_deep``: the same trunk, three fully connected layers with ReLU.
- ``cats_dogs_efficientnet``: such layers on EfficientNet-Lite0 with ImageNet weights.
- ``cifar10``, ``mnist``: small nets trained from scratch, two such layers.

What is trained is kept in a cache folder, and made there with a seed if it is missing:

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.representative.models --cache DIR
"""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from tests.benchmarks.machine import quick_dtype
from tests.benchmarks.networks.trained import plain_network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TASKS = ("cats_dogs_conv", "cats_dogs_deep", "cifar10", "mnist")
SEED = 0
CHUNK = 16


class LayeredNet(nn.Module):
    """A trunk, the layer ``feature_map`` (B, K, h, w) in float32, and a head.

    A trunk in bfloat16 halves the price of SqueezeNet on a CPU that multiplies in it,
    for all methods alike; everything from the layer upwards is float32.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk.to(memory_format=torch.channels_last)
        self.feature_map = nn.Identity()
        self.head = head

    def maps(self, x: Tensor) -> Tensor:
        """Feature maps of normalised images."""
        dtype = next(self.trunk.parameters()).dtype
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
        return self.trunk(x).float().contiguous()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.feature_map(self.maps(x)))  # type: ignore[no-any-return]


@dataclass
class Task:
    """A trained classifier and its images.

    Attributes:
        name: One of ``TASKS``.
        model: The net in evaluation mode, logits out.
        n_classes: Number of classes.
        train_images: Where the references come from, uint8 (N, C, H, W).
        test_images: What the net never saw, uint8 (N', C, H, W).
        mean: What is subtracted from pixels in [0, 1], (C,).
        std: What they are divided by then, (C,).
        accuracy: On the test images.
    """

    name: str
    model: LayeredNet
    n_classes: int
    train_images: Tensor
    test_images: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float = 0.0

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to what the model takes."""
        return normalize(pixels, self.mean, self.std)

    @property
    def black(self) -> Tensor:
        """A black pixel as the model takes it, (1, C, 1, 1)."""
        return self.normalize(torch.zeros(1, len(self.mean), 1, 1, dtype=torch.uint8))


def normalize(
    pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Pixels uint8 (N, C, H, W) to float32, normalised by channel."""
    shape = (1, len(mean), 1, 1)
    centred = pixels.float() / 255 - torch.tensor(mean).view(shape)
    return centred / torch.tensor(std).view(shape)


# --- Images ---------------------------------------------------------------------------


def load_task(name: str, data: Path, cache: Path) -> Task:
    """Loads a task, training its net first where the cache has none."""
    cache.mkdir(parents=True, exist_ok=True)
    if name == "mnist":
        images, labels, test_images, test_labels = _mnist(data)
        task = Task(name, mnist_net(), 10, images, test_images, (0.0,), (1.0,))
    elif name == "cifar10":
        images, labels, test_images, test_labels = _cifar10(data, cache)
        half = (0.5, 0.5, 0.5)
        net = _cifar10_net()
        task = Task(name, net, 10, images, test_images, half, (0.25, 0.25, 0.25))
    elif name == "cats_dogs_efficientnet":
        images, labels, test_images, test_labels = _cats_dogs(data, cache)
        net = LayeredNet(EfficientNetTrunk(), deep_head(1280, pooled=4, n_classes=2))
        mean, std = (0.498,) * 3, (0.502,) * 3
        task = Task(name, net, 2, images, test_images, mean, std)
    else:
        images, labels, test_images, test_labels = _cats_dogs(data, cache)
        net = LayeredNet(squeezenet_trunk(data), _cats_dogs_head(name))
        task = Task(name, net, 2, images, test_images, IMAGENET_MEAN, IMAGENET_STD)
    path = cache / f"{name}.pt"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            for layer in task.model.head.modules():  # drawn with the seed
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.reset_parameters()
            if name in ("mnist", "cifar10"):
                _train_net(task, labels)
            else:
                _train_head(task, labels, cache)
        task.model.eval()
        accuracy = _accuracy(task, test_labels)
        torch.save({"model": task.model.state_dict(), "accuracy": accuracy}, path)
    saved = torch.load(path, weights_only=True)
    task.model.load_state_dict(saved["model"])
    task.accuracy = saved["accuracy"]
    task.model.eval().requires_grad_(False)
    return task


def _mnist(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sets = []
    for part in ("train", "test"):
        with np.load(data / f"mnist_{part}.npz") as arrays:
            sets += [
                torch.from_numpy(arrays["images"])[:, None],
                torch.from_numpy(arrays["labels"]).long(),
            ]
    return sets[0], sets[1], sets[2], sets[3]


def _cifar10(data: Path, cache: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    train = _from_zip(data / "cifar10_train.zip", cache, side=32)
    return (*train, *_from_zip(data / "cifar10_test.zip", cache, side=32))


def _cats_dogs(data: Path, cache: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first 1,200 photographs of each kind to train on, 300 to test."""
    images, labels = _from_zip(data / "cats_dogs.zip", cache, side=224)
    order = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
    train = order < 1200
    return images[train], labels[train], images[~train], labels[~train]


def _from_zip(archive: Path, cache: Path, side: int) -> tuple[Tensor, Tensor]:
    """Centre crops of the archive's ``<class>/<number>.jpg``, sorted by class."""
    from PIL import Image

    path = cache / f"{archive.stem}.npz"
    if not path.exists():
        with zipfile.ZipFile(archive) as folder:
            names = sorted(name for name in folder.namelist() if name.endswith(".jpg"))
            kinds = sorted({name.split("/")[-2] for name in names})
            images = np.empty((len(names), 3, side, side), dtype=np.uint8)
            for i, name in enumerate(names):
                photo = Image.open(io.BytesIO(folder.read(name))).convert("RGB")
                left, top = (photo.width - side) // 2, (photo.height - side) // 2
                crop = photo.crop((left, top, left + side, top + side))
                images[i] = np.asarray(crop).transpose(2, 0, 1)
        labels = np.array([kinds.index(name.split("/")[-2]) for name in names])
        np.savez(path, images=images, labels=labels)
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


# --- Nets -----------------------------------------------------------------------------


def squeezenet_trunk(data: Path) -> nn.Module:
    """SqueezeNet's ``features``, quick, with ImageNet weights: (B, 512, h, w)."""
    import torchvision

    net = torchvision.models.squeezenet1_0()
    weights = data / "models" / "squeezenet1_0_imagenet.pt"
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.features.eval().to(quick_dtype())  # type: ignore[no-any-return]


class EfficientNetTrunk(nn.Module):
    """EfficientNet-Lite0 below its mean over the map, quick: (B, 1280, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_network("efficientnet").to(quick_dtype())

    def forward(self, x: Tensor) -> Tensor:
        return self.net.extract_features(x)  # type: ignore[no-any-return]


def _cats_dogs_head(name: str) -> nn.Module:
    if name == "cats_dogs_conv":
        return nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(512, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    return deep_head(512, pooled=4, n_classes=2)


def deep_head(n_channels: int, pooled: int, n_classes: int) -> nn.Module:
    """Three fully connected layers on the pooled map: thousands of linear pieces."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(pooled),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(n_channels * pooled**2, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, n_classes),
    )


def _block(n_in: int, n_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]


def _cifar10_net() -> LayeredNet:
    trunk = [*_block(3, 32), nn.MaxPool2d(2), *_block(32, 64), nn.MaxPool2d(2)]
    trunk += [*_block(64, 128), *_block(128, 128)]
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(2048, 128)]
    head += [nn.ReLU(), nn.Linear(128, 10)]
    return LayeredNet(nn.Sequential(*trunk), nn.Sequential(*head))


def mnist_net() -> LayeredNet:
    """The untrained net of the task ``mnist``: images (B, 1, 28, 28)."""
    trunk = [*_block(1, 16), nn.MaxPool2d(2), *_block(16, 32), nn.MaxPool2d(2)]
    trunk += _block(32, 64)
    head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 7 * 7, 64)]
    head += [nn.ReLU(), nn.Linear(64, 10)]
    return LayeredNet(nn.Sequential(*trunk), nn.Sequential(*head))


# --- Training -------------------------------------------------------------------------


def _train_net(task: Task, labels: Tensor, batch: int = 128) -> None:
    """Adam with one cycle; CIFAR-10 with the changes of ``_jitter``."""
    colour = task.name == "cifar10"
    n_epochs = 15 if colour else 3
    model = task.model.train()
    # BatchNorm and convolutions below the layer are drawn with the seed too.
    for layer in model.trunk.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    n_steps = len(labels) // batch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=n_epochs * n_steps
    )
    lower = quick_dtype() != torch.float32
    for epoch in range(n_epochs):
        order = torch.randperm(len(labels))[: n_steps * batch].view(n_steps, batch)
        total = 0.0
        for chosen in order:
            x = task.normalize(task.train_images[chosen])
            if colour:
                x = _jitter(x)
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                logits = model(x)
            loss = cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / n_steps
        print(f"{task.name} epoch {epoch}: loss {total:.3f}", flush=True)


def _jitter(x: Tensor, shift: int = 4, cut: int = 20) -> Tensor:
    """Shifts, mirrors and black squares, each drawn for its own images.

    Without the squares a net of this size takes any picture with much black for
    another class, and all heat maps lose alike.
    """
    n, _, height, width = x.shape
    top, left = torch.randint(2 * shift + 1, (2,)).tolist()
    black = x.amin(dim=(0, 2, 3), keepdim=True)
    x = pad(x, (shift,) * 4, mode="reflect")[:, :, top : top + height]
    x = x[..., left : left + width]
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    y0, x0 = torch.randint(-cut // 2, height - cut // 2, (2, n, 1, 1, 1))
    y, z = torch.arange(height).view(1, 1, -1, 1), torch.arange(width)
    inside = (y >= y0) & (y < y0 + cut) & (z >= x0) & (z < x0 + cut)
    return torch.where(inside & (torch.rand(n, 1, 1, 1) < 0.7), black, x)


def _train_head(task: Task, labels: Tensor, cache: Path, batch: int = 64) -> None:
    """Trains the head on feature maps computed once, mirrored at random."""
    maps = feature_maps(task, "train", torch.arange(len(labels)), cache).half()
    head = task.model.head.train()
    n_epochs = 20
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
    for epoch in range(n_epochs):
        total = 0.0
        for chosen in torch.randperm(len(labels)).split(batch):
            psi = maps[chosen].float()
            psi = torch.where(torch.rand(len(psi), 1, 1, 1) < 0.5, psi.flip(3), psi)
            loss = cross_entropy(head(psi), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen) / len(labels)
        schedule.step()
        print(f"{task.name} epoch {epoch}: loss {total:.3f}", flush=True)


@torch.no_grad()
def feature_maps(task: Task, part: str, indices: Tensor, cache: Path) -> Tensor:
    """Feature maps (n, K, h, w) of some of the ``train`` or ``test`` images.

    Those of trunks with ImageNet weights are computed for all images once and kept.
    """

    def compute(images: Tensor) -> Tensor:
        batches = images.split(4 * CHUNK)
        return torch.cat([task.model.maps(task.normalize(x)) for x in batches])

    images = task.train_images if part == "train" else task.test_images
    if not task.name.startswith("cats_dogs"):
        return compute(images[indices])
    trunk = "_efficientnet" if task.name.endswith("efficientnet") else ""
    path = cache / f"cats_dogs{trunk}_maps_{part}.pt"
    if not path.exists():
        torch.save(compute(images).half(), path)
    return torch.load(path, weights_only=True, mmap=True)[indices].float()


@torch.no_grad()
def _accuracy(task: Task, labels: Tensor) -> float:
    predicted = torch.cat(
        [
            task.model(task.normalize(x)).argmax(dim=1)
            for x in task.test_images.split(4 * CHUNK)
        ]
    )
    return (predicted == labels).double().mean().item()


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    arguments = parser.parse_args()
    for name in arguments.tasks:
        task = load_task(name, Path(os.environ["CAPTUM_MARGIN_DATA"]), arguments.cache)
        print(f"{name}: test accuracy {task.accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
