"""Images as the network sees them, once more: what its features are the mean of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin.cli.classifier import device_of
from captum_margin.cli.images import read_image
from captum_margin.cli.preprocessing import normalisation
from captum_margin.influence._extraction import pooled

_SAME = 1e-4  # of the largest feature; sums in another order


class SeenImages:
    """The images of a folder and the network that made their features.

    Args:
        model (Module): The network, in evaluation mode.
        layer (Module): Whose output are the features, its maps averaged.
        preprocess (Callable): From a PIL image to a tensor (C, H, W).
        paths (list[Path]): The files of the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        preprocess: Callable[[Any], Tensor],
        paths: list[Path],
    ) -> None:
        self.model, self.layer = model, layer
        self.preprocess, self.paths = preprocess, paths
        self.maps_of: str | None = None
        self._source: nn.Module | None = None
        self._positive = False

    @property
    def side_seen(self) -> float | None:
        """Side of the square in the middle that the network sees, of the shorter.

        None of a preprocessing of the user's, which may show it anything.
        """
        crop = getattr(self.preprocess, "crop_size", None)
        whole = getattr(self.preprocess, "resize_size", None)
        return crop[0] / whole[0] if crop and whole else None

    def picture(self, index: int) -> Any:
        """A sample as the network sees it, PIL's.

        Raises:
            CommandError: If it cannot be read any more.
            ValueError: If the network sees neither grey nor colour.
        """
        from PIL import Image

        from captum_margin.viz._arrays import displayable_image

        pixels = displayable_image(self.image(index), *normalisation(self.preprocess))
        return Image.fromarray((255 * pixels).round().astype("uint8"))

    def image(self, index: int) -> Tensor:
        """A sample as the network takes it, (1, C, H, W).

        Raises:
            CommandError: If it cannot be read any more.
        """
        device = device_of(self.model)
        return self.preprocess(read_image(self.paths[index]))[None].to(device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Of images (n, C, H, W), (n, F)."""
        (output,) = self._outputs(images, [self.layer])
        return pooled(output, "mean")

    def find_maps(self, index: int) -> bool:
        """Looks for the layer that the features are means of, by one image.

        It is the last one of whose maps, or of their positive part, the mean over more
        than one position is what the network returns. Some networks have none: they
        normalise after the mean, or have fully connected layers behind it.
        """
        modules = dict(self.model.named_modules())
        image = self.image(index)
        features = self.features(image)
        close = _SAME * float(features.abs().max())
        outputs = self._outputs(image, list(modules.values()))
        for (name, module), output in zip(modules.items(), outputs, strict=True):
            if output is None or output.dim() != 4 or output[0, 0].numel() < 2:
                continue
            if output.shape[:2] != features.shape:
                continue
            for positive in (False, True):
                values = output.clamp(min=0) if positive else output
                away = (values.mean(dim=(2, 3)) - features).abs().max()
                if float(away) <= close:
                    self._source, self._positive = module, positive
                    self.maps_of = name or "the network"
                    break
        return self._source is not None

    def maps(self, index: int) -> Tensor:
        """What the features of a sample are the mean of, (1, F, h, w)."""
        assert self._source is not None  # find_maps
        (output,) = self._outputs(self.image(index), [self._source])
        maps: Tensor = output.clamp(min=0) if self._positive else output
        return maps

    @torch.no_grad()
    def _outputs(self, images: Tensor, modules: list[nn.Module]) -> list[Any]:
        """What these return; None for what does not run or returns no tensor."""
        found: dict[int, Any] = {}

        def keep(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                # A copy: the layer behind may work in place.
                found[id(module)] = output.clone()

        handles = [module.register_forward_hook(keep) for module in modules]
        try:
            self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return [found.get(id(module)) for module in modules]
