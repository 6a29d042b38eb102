"""Attacked and merely odd images of two networks, for the benchmark of detectors.

MNIST: the net of ``images.py``, trained on the first 20,000 training images of a fixed
random order; references are the next 5,000. CIFAR-10: a net of three convolutions with
normalisation and two linear layers, trained on 16,000 of the 20,000 training images at
hand; references are the other 4,000. No network has seen its references.

Test images that the network classifies rightly are attacked: the first 300 of them in a
fixed random order for choices ("tuning"), the next 600 for the report. Pixels are in
[0, 1]. Attacks, of foolbox (``pip install foolbox``) unless it says otherwise:

- FGSM of three sizes and PGD (20 steps), maximum norm;
- Carlini and Wagner's and DeepFool, L2;
- "latents of another class", which knows the layers and the references: PGD that moves
  the latents of all watched layers towards those of the nearest reference of another
  class (Sabour et al., *Adversarial Manipulation of Deep Representations*,
  https://arxiv.org/abs/1511.05122), 60 steps within the size of the large FGSM.

Controls: no attack, but odd: turned, noisy, and the tenth of the clean images whose two
largest scores are nearest. All is kept in a cache folder, made there if missing:

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.adversarial.attacks --cache DIR
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.adversarial import images as mnist
from tests.benchmarks.networks import vit

Name = Literal["MNIST", "CIFAR-10"]
NETWORKS: tuple[Name, ...] = ("MNIST", "CIFAR-10")
SEED = 0
CHUNK = 100
COUNTS = {"tuning": (0, 300), "report": (300, 600)}
LAYERS: dict[Name, tuple[str, ...]] = {
    "MNIST": ("maps.4", "maps", "first", "hidden"),
    "CIFAR-10": ("blocks.0", "blocks.1", "blocks.2", "hidden"),
}
FGSM: dict[Name, tuple[float, ...]] = {
    "MNIST": (0.1, 0.15, 0.3),
    "CIFAR-10": (2 / 255, 4 / 255, 8 / 255),
}
PGD = {"MNIST": 0.15, "CIFAR-10": 4 / 255}
ATTACKS = ("FGSM small", "FGSM middle", "FGSM large", "PGD", "Carlini-Wagner")
ATTACKS += ("DeepFool",)
CONTROLS = ("rotated", "noisy")
CW_OPTIONS = {
    "binary_search_steps": 3,
    "steps": 50,
    "initial_const": 1.0,
    "confidence": 0.0,
}
CW_STEP = {"MNIST": 0.1, "CIFAR-10": 0.01}
DEEPFOOL_OPTIONS = {"steps": 25, "candidates": 5, "overshoot": 0.02}
ROTATION = {"MNIST": 25.0, "CIFAR-10": 15.0}  # degrees
NOISE = {"MNIST": 0.15, "CIFAR-10": 0.03}  # standard deviation


class CifarNet(nn.Module):
    """(B, 3, 32, 32) in [0, 1] -> (B, 10); ``hidden`` gives the last 128 units."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", vit.MEAN)
        self.register_buffer("std", vit.STD)
        self.blocks = nn.Sequential(_block(3, 32), _block(32, 64), _block(64, 128))
        self.flat = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))
        self.hidden = nn.Sequential(nn.Linear(2048, 128), nn.ReLU())
        self.logits = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.blocks((x - self.mean) / self.std)
        return self.logits(self.hidden(self.flat(maps)))  # type: ignore[no-any-return]


def _block(c: int, d: int) -> nn.Module:
    conv = nn.Conv2d(c, d, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(d), nn.ReLU(), nn.MaxPool2d(2))


def train_cifar(x: Tensor, y: Tensor, epochs: int = 14) -> CifarNet:
    """The net, by Adam in one cycle; images mirrored and moved by up to 4 pixels."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = CifarNet().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02)
        steps = epochs * (len(x) // 128)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for batch in order[: len(x) // 128 * 128].split(128):
                loss = cross_entropy(net(vit.augmented(x[batch], generator)), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            print(f"epoch {epoch + 1}: {loss:.3f}", flush=True)
    return net.eval().requires_grad_(False)


@dataclass
class Data:
    """A network, references it has not seen, and images before and after.

    Attributes:
        model: The network, in evaluation mode.
        accuracy: On the test images.
        references: Images (M, ...) and labels (M,).
        images: Test images (N, ...) that it classifies rightly, and labels.
        others: All remaining test images, 1,000 at most, and labels: rightly or wrongly
            classified, for the share of false alarms.
        changed: The images attacked, by attack.
        odd: The images turned or noisy.
        seconds: Processor time of each attack.
    """

    model: nn.Module
    accuracy: float
    references: tuple[Tensor, Tensor]
    images: Tensor
    labels: Tensor
    others: tuple[Tensor, Tensor]
    changed: dict[str, Tensor]
    odd: dict[str, Tensor]
    seconds: dict[str, float]


def load(name: Name, root: Path, cache: Path) -> tuple[nn.Module, Any, Any]:
    """The network, its references and its test images; trained if it is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    if name == "MNIST":
        x, y = mnist.digits(root, "train")
        test = mnist.digits(root, "test")
        n, m, make, net = mnist.TRAINED_ON, 5000, mnist.train, mnist.CarliniNet()
    else:
        x, y = _shuffled(*vit.read_images(root / "cifar10_train.zip"))
        test = _shuffled(*vit.read_images(root / "cifar10_test.zip"))
        n, m, make, net = 16_000, 4000, train_cifar, CifarNet()
    weights = cache / f"{name}.pt"
    if not weights.exists():
        torch.save(make(x[:n], y[:n]).state_dict(), weights)
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return net, (x[n : n + m], y[n : n + m]), test


def _shuffled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))
    return x[order], y[order]


def latents(net: nn.Module, names: tuple[str, ...], x: Tensor) -> dict[str, Tensor]:
    """Outputs of layers, feature maps as means over positions; gradients pass."""
    found: dict[str, Tensor] = {}
    modules = dict(net.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(_m: Any, _i: Any, out: Tensor) -> None:
            found[name] = out.flatten(2).mean(2) if out.dim() > 2 else out

        return hook

    handles = [modules[n].register_forward_hook(keep(n)) for n in names]
    try:
        found["scores"] = net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def collect(net: nn.Module, names: tuple[str, ...], x: Tensor) -> dict[str, Tensor]:
    """:func:`latents` of many images, without gradients, and the decisions."""
    with torch.no_grad():
        parts = [latents(net, names, part) for part in x.split(250)]
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return {**joined, "class": joined["scores"].argmax(1)}


def attack(
    name: Name, method: str, net: nn.Module, x: Tensor, y: Tensor, references: Any
) -> Tensor:
    """Attacked images; where an attack fails, what it got to."""
    if method == "latents of another class":
        return towards_another_class(name, net, x, y, references)
    import foolbox

    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    sizes = dict(zip(("small", "middle", "large"), FGSM[name], strict=True))
    if method.startswith("FGSM"):
        run = foolbox.attacks.LinfFastGradientAttack()
        size = sizes[method.removeprefix("FGSM ")]
    elif method == "PGD":
        run, size = foolbox.attacks.LinfPGD(steps=20), PGD[name]
    elif method == "DeepFool":
        run, size = foolbox.attacks.L2DeepFoolAttack(**DEEPFOOL_OPTIONS), None
    else:
        step = CW_STEP[name]
        run = foolbox.attacks.L2CarliniWagnerAttack(stepsize=step, **CW_OPTIONS)
        size = None
    # Without a size the attack itself finds how far it goes.
    which = 0 if size is None else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        done = [run(model, a, b, epsilons=size)[which].detach() for a, b in parts]
    return torch.cat(done)


def towards_another_class(
    name: Name, net: nn.Module, x: Tensor, y: Tensor, references: Any
) -> Tensor:
    """PGD on the latents of all layers, signs of gradients."""
    layers, size = LAYERS[name], max(FGSM[name])
    known = collect(net, layers, references[0])
    right = known["class"] == references[1]
    known = {key: value[right] for key, value in known.items()}
    scale = {key: known[key].var(0).sum() for key in layers}
    done = []
    for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        own = collect(net, layers, a)
        last = torch.cdist(own[layers[-1]], known[layers[-1]])
        last[b[:, None] == known["class"][None]] = torch.inf
        guide = last.argmin(1)
        changed = a.clone()
        for _ in range(60):
            changed.requires_grad_(True)
            found = latents(net, layers, changed)
            loss = sum(
                ((found[key] - known[key][guide]).square().sum() / scale[key])
                for key in layers
            )
            (gradient,) = torch.autograd.grad(loss, changed)
            moved = changed.detach() - size / 15 * gradient.sign()
            changed = (a + (moved - a).clamp(-size, size)).clamp(0, 1)
        done.append(changed.detach())
    return torch.cat(done)


def odd_images(name: Name, x: Tensor) -> dict[str, Tensor]:
    """Turned either way, and noisy: no attack."""
    from torchvision.transforms.functional import InterpolationMode, rotate

    generator = torch.Generator().manual_seed(SEED)
    noise = NOISE[name] * torch.randn(x.shape, generator=generator)
    turned = [
        rotate(part[None], sign * ROTATION[name], InterpolationMode.BILINEAR)[0]
        for part, sign in zip(x, [1, -1] * len(x), strict=False)
    ]
    return {"rotated": torch.stack(turned), "noisy": (x + noise).clamp(0, 1)}


def prepare(name: Name, half: str, root: Path, cache: Path) -> Data:
    """All of a network's images of a half, attacked if they are not there yet."""
    net, references, (images, labels) = load(name, root, cache)
    decided = collect(net, (), images)["class"]
    right = decided == labels
    first, count = COUNTS[half]
    kept = right.nonzero().squeeze(1)[first : first + count]
    # Others begin after the last image that was attacked in either half.
    end = int(right.nonzero().squeeze(1)[sum(COUNTS["report"]) - 1]) + 1
    others = images[end : end + 1000], labels[end : end + 1000]
    x, y = images[kept], labels[kept]
    changed, seconds = {}, {}
    for method in (*ATTACKS, "latents of another class"):
        file = cache / f"{name}_{half}_{method.replace(' ', '_')}.pt"
        if not file.exists():
            start = time.process_time()
            value = attack(name, method, net, x, y, references)
            spent = time.process_time() - start
            torch.save({"x": value, "seconds": spent}, file)
            print(f"{name} {half} {method}: {spent:.0f} s", flush=True)
        stored = torch.load(file, weights_only=True)
        changed[method], seconds[method] = stored["x"], round(stored["seconds"], 1)
    accuracy = float(right.double().mean())
    odd = odd_images(name, x)
    return Data(net, accuracy, references, x, y, others, changed, odd, seconds)


def main() -> None:
    """Trains and attacks what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--halves", nargs="*", default=[*COUNTS], choices=[*COUNTS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    for half in args.halves:
        for name in NETWORKS:
            data = prepare(name, half, root, args.cache)
            print(f"{name} {half}: accuracy {data.accuracy:.4f}")
            for method, x in data.changed.items():
                fooled = collect(data.model, (), x)["class"] != data.labels
                far = (x - data.images).flatten(1).norm(dim=1).mean()
                print(f"  {method:24} fooled {fooled.double().mean():.3f} L2 {far:.2f}")


if __name__ == "__main__":
    main()
