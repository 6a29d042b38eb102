"""A small vision transformer, trained on the spot: the package index ships none.

torchvision's own class with a convolutional stem (Xiao et al. 2021), which needs far
fewer epochs: patches of 4 x 4, so that an image of 32 x 32 has 8 x 8 tokens and a class
token. Trained on the 20,000 CIFAR-10 images by AdamW, one cycle, crops and flips. The
weights are kept in a cache and not in the package; ``results/vit.json`` has what the
run that the benchmarks use came to, ``vit_float32.json`` that of a machine without
bfloat16.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.networks.vit --weights vit.pt
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.records import RESULTS

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(1, 3, 1, 1)


def architecture() -> nn.Module:
    """The network, untrained: 4 blocks of 4 heads, 128 wide."""
    from torchvision.models.vision_transformer import (
        ConvStemConfig,
        VisionTransformer,
    )

    stem = [
        ConvStemConfig(out_channels=32, kernel_size=3, stride=1),
        ConvStemConfig(out_channels=64, kernel_size=3, stride=2),
        ConvStemConfig(out_channels=128, kernel_size=3, stride=2),
    ]
    return VisionTransformer(
        image_size=32,
        patch_size=4,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=len(CLASSES),
        conv_stem_configs=stem,
    )


def read_images(archive: Path) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], (N, 3, 32, 32), in the order of their names, and labels."""
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    images, labels = [], []
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            if not name.endswith(".jpg"):
                continue
            picture = Image.open(io.BytesIO(files.read(name))).convert("RGB")
            images.append(torch.from_numpy(np.asarray(picture).copy()))
            labels.append(CLASSES.index(name.split("/")[-2]))
    stacked = torch.stack(images).permute(0, 3, 1, 2).float() / 255
    return stacked, torch.tensor(labels)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored or not, and moved by up to 4 pixels."""
    n, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    down, right = torch.randint(0, 9, (2, n, 1), generator=generator)
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    columns = torch.where(
        torch.rand(n, 1, generator=generator) < 0.5, columns, columns.flip(1)
    )
    examples = torch.arange(n)[:, None, None]
    moved: Tensor = padded.permute(0, 2, 3, 1)[
        examples, rows[:, :, None], columns[:, None, :]
    ]
    return moved.permute(0, 3, 1, 2)


def train(data: Path, *, n_epochs: int, seed: int) -> tuple[nn.Module, float]:
    """The network after its epochs, and its accuracy on the 5,000 test images."""
    images, labels = read_images(data / "cifar10_train.zip")
    images = (images - MEAN) / STD
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = architecture()
    n_steps = n_epochs * (len(images) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, n_steps)
    dtype = quick_dtype()
    for epoch in range(n_epochs):
        start, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(128)[: len(images) // 128]:
            x = augmented(images[batch], generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
                logits = net(x)
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - start
        mean = total / (len(images) // 128)
        print(f"epoch {epoch}: loss {mean:.3f}, {seconds:.0f} s", flush=True)
    net.eval()
    return net, accuracy(net, data)


@torch.no_grad()
def accuracy(net: nn.Module, data: Path) -> float:
    """Share of the test images that the network names rightly."""
    images, labels = read_images(data / "cifar10_test.zip")
    images = (images - MEAN) / STD
    right = [
        (net(x).argmax(dim=1) == y).sum()
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    ]
    return float(torch.stack(right).sum()) / len(labels)


def load(weights: Path) -> nn.Module:
    """The trained network, in eval mode.

    Raises:
        FileNotFoundError: If it has not been trained.
    """
    if not weights.exists():
        raise FileNotFoundError(
            f"expected the transformer's weights at {weights} (got no file); train it "
            f"with python -m tests.benchmarks.networks.vit --weights {weights}"
        )
    net = architecture()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def record_name() -> str:
    """Of the network that this machine trains; another type of numbers is another."""
    return "vit" if quick_dtype() == torch.bfloat16 else "vit_float32"


def main() -> None:
    """Trains and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / f"{record_name()}.json")
    arguments = parser.parse_args()
    data = Path(os.environ["CAPTUM_MARGIN_DATA"])
    net, right = train(data, n_epochs=arguments.epochs, seed=arguments.seed)
    torch.save(net.state_dict(), arguments.weights)
    record = {
        "command": "python -m tests.benchmarks.networks.vit --weights FILE "
        f"--epochs {arguments.epochs} --seed {arguments.seed}",
        "accuracy_on_5000_test_images": right,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "dtype": str(quick_dtype()).removeprefix("torch."),
        "parameters": sum(p.numel() for p in net.parameters()),
        "versions": versions(),
        "machine": machine(),
    }
    arguments.out.write_text(json.dumps(record, indent=1))
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
