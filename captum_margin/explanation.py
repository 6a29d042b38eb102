"""One record of an explanation, whatever method it is of: keep, draw and measure it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_margin._files import read_record, write_record
from captum_margin._keywords import check_keywords
from captum_margin._model.captum import TargetType
from captum_margin._version import versions
from captum_margin.metrics import Evaluation, evaluate
from captum_margin.viz import visualize_comparison

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["Explanation", "Tensors", "are_tensors"]

_KIND, _VERSION = "captum_margin.Explanation", 1

Tensors = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Attributions, what they are of, and how they came about.

    Made by :func:`captum_margin.explain`, of one example or a batch. Everything is a
    tensor or a plain value, so that it can be saved without pickle.

    Attributes:
        attributions (Tensor or tuple[Tensor, ...]): What ``attribute`` returned,
            detached: of the inputs' shapes, or a layer's.
        target (int, tuple, Tensor or list, optional): The target explained, in the
            form it was given.
        method (str): Class of the method, such as ``"MarginSaliency"``.
        settings (dict): The options of the run; what is neither plain nor a tensor is
            described in words.
        details (dict): What the method says besides, of its ``return_details``:
            ``segments`` (MarginSaliency on regions), ``coalitions``
            (CoalitionPerturbation) or ``covered`` references
            (RepresentativeInterpretation), and more; empty for Captum's own methods.
        inputs (Tensor or tuple[Tensor, ...], optional): A copy of the inputs, needed
            by :meth:`plot` and :meth:`evaluate`.
        n_forward (int, optional): Forward passes of one example, their mean over the
            batch, rounded up. None if they could not be counted.
        seconds (float, optional): Time that ``attribute`` took, for the whole batch.
        versions (dict): Releases of this package, Captum, torch and Python.

    Examples::

        >>> import torch
        >>> from captum_margin import Explanation, explain
        >>> from captum_margin.attr import MarginSaliency
        >>> model = lambda x: x[:, :, :8, :8].mean(dim=(1, 2, 3))
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> images[:, :, :8, :8] = 1.0
        >>> explanation = explain(MarginSaliency(model), images, n_evaluations=100)
        >>> explanation.attributions.shape, explanation.n_forward
        (torch.Size([2, 3, 32, 32]), 100)
        >>> explanation.save("corner.npz")
        >>> again = Explanation.load("corner.npz")
        >>> torch.equal(again.attributions, explanation.attributions)
        True
        >>> figure = again.plot()
        >>> bool((again.evaluate(model).numbers["deletion_auc"] < 0.1).all())
        True
    """

    attributions: Tensors
    target: TargetType
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    inputs: Tensors | None = None
    n_forward: int | None = None
    seconds: float | None = None
    versions: dict[str, str] = field(
        default_factory=partial(versions, "captum", "torch")
    )

    def __repr__(self) -> str:
        """The figures in one line."""
        parts = [f"{self.method} of {_shapes(self.attributions)}"]
        if self.n_forward is not None:
            parts.append(f"n_forward={self.n_forward}")
        if self.seconds is not None:
            parts.append(f"seconds={self.seconds:.2f}")
        return f"Explanation({', '.join(parts)})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything to one file, which :meth:`load` reads.

        The file is a ZIP, as NumPy's ``.npz``: ``numpy.load(path)["attributions"]`` is
        the map, ``record.json`` in it the rest. It is there whole or not at all.
        Without the images it is smaller:
        ``dataclasses.replace(explanation, inputs=None).save(path)``.

        Args:
            path (str or Path): The file, best named ``.npz``; it is replaced.

        Raises:
            TypeError: If settings or details were put in that are neither plain values
                nor tensors.
            OSError: If the file cannot be written.
        """
        contents = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        write_record(Path(path), _KIND, _VERSION, contents)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> Explanation:
        """Reads what :meth:`save` wrote, bit for bit.

        Nothing in the file is executed: there is no pickle in it.

        Args:
            path (str or Path): The file.
            device (device or str, optional): Where the tensors shall be, that of the
                model for :meth:`evaluate`. Default: ``"cpu"``

        Returns:
            Explanation: The same attributions, settings, details and inputs.

        Raises:
            ValueError: If the file holds no explanation, one of another version, or is
                damaged.
            OSError: If there is no such file.

        Cost: that of reading the file, all of it.
        """
        contents = read_record(Path(path), _KIND, _VERSION)
        expected = {entry.name for entry in fields(cls)}
        maps = contents.get("attributions")
        if set(contents) != expected or not are_tensors(maps):
            raise ValueError(
                f"cannot read {path}: expected the entries {sorted(expected)} "
                f"(got {sorted(contents)})"
            )
        moved = {name: _moved(entry, device) for name, entry in contents.items()}
        return cls(**moved)

    @check_keywords
    def plot(
        self,
        index: int = 0,
        *,
        inputs: Tensors | None = None,
        evaluation: Evaluation | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        sign: Literal["positive", "negative", "absolute_value", "all"] = "positive",
        outlier_perc: float = 2,
        cmap: str | Colormap | None = None,
        alpha_overlay: float = 0.5,
        title: str | None = None,
    ) -> Figure:
        """Draws the image of one example, its map, and the map over the image.

        Args:
            index (int, optional): Which example of the batch. Default: 0
            inputs (Tensor or tuple[Tensor, ...], optional): What was explained, where
                the record has no ``inputs``. Default: None
            evaluation (Evaluation, optional): What :meth:`evaluate` returned; adds its
                insertion and deletion curves. Default: None
            mean (Sequence[float] or float, optional): As in
                :func:`captum_margin.viz.visualize_comparison`. Default: None
            std (Sequence[float] or float, optional): As there. Default: None
            sign (str, optional): As there. Default: ``"positive"``
            outlier_perc (float, optional): As there. Default: 2
            cmap (str or Colormap, optional): As there. Default: None
            alpha_overlay (float, optional): As there. Default: 0.5
            title (str, optional): As there. Default: None

        Returns:
            Figure: For a notebook's last line, or ``figure.savefig``.

        Raises:
            TypeError: If ``inputs`` are no tensors, or an option is unknown.
            ValueError: If there are no inputs, or they or the map are no images.
            IndexError: If there is no such example.
        """
        images, maps = self._images(inputs)
        if not -len(images) <= index < len(images):
            raise IndexError(f"expected an index below {len(images)} (got {index})")
        if images.dim() != 4:
            raise ValueError(
                f"expected images (B, C, H, W) to draw (got {tuple(images.shape)}); "
                "draw a slice of a volume with captum_margin.viz.visualize_comparison, "
                "and a series with matplotlib"
            )
        curves = None if evaluation is None else evaluation.curves_of(index)
        figure, _ = visualize_comparison(
            images[index],
            {self.method: maps[index]},
            curves=None if curves is None else {self.method: curves},
            mean=mean,
            std=std,
            sign=sign,
            outlier_perc=outlier_perc,
            cmap=cmap,
            alpha_overlay=alpha_overlay,
            title=title,
        )
        return figure

    @check_keywords
    def evaluate(
        self,
        forward_func: Callable[..., Tensor],
        additional_forward_args: object = None,
        *,
        inputs: Tensors | None = None,
        baseline: float | Tensor | None = None,
        softmax: bool = True,
        perturbations_per_eval: int = 32,
        show_progress: bool = False,
    ) -> Evaluation:
        """Measures with every metric of the package how faithful the maps are.

        Maps of a layer are upsampled bilinearly to the images and summed over channels.

        Args:
            forward_func (Callable): The model that was explained.
            additional_forward_args (Any, optional): As in Captum. Default: None
            inputs (Tensor or tuple[Tensor, ...], optional): What was explained, where
                the record has no ``inputs``. Default: None
            baseline (float or Tensor, optional): As in
                :func:`captum_margin.metrics.evaluate`. Default: None
            softmax (bool, optional): As there. Default: True
            perturbations_per_eval (int, optional): As there. Default: 32
            show_progress (bool, optional): As there. Default: False

        Returns:
            Evaluation: All results, and their numbers by name.

        Raises:
            TypeError: If an option is unknown or of the wrong type.
            ValueError: If there are no inputs, or they or the maps are no images.

        Cost: that of :func:`captum_margin.metrics.evaluate`.
        """
        images, maps = self._images(inputs)
        if maps.dim() == images.dim() == 4 and maps.shape != images.shape:
            maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
            maps = maps.sum(dim=1, keepdim=True)
            if maps.shape[2:] != images.shape[2:]:
                size = tuple(images.shape[2:])
                maps = LayerAttribution.interpolate(maps, size, "bilinear")
        return evaluate(
            forward_func,
            images,
            maps,
            self.target,
            additional_forward_args,
            baseline=baseline,
            softmax=softmax,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )

    def _images(self, inputs: Tensors | None) -> tuple[Tensor, Tensor]:
        """The one input and its map; the tools themselves refuse what is no image."""
        inputs = self.inputs if inputs is None else inputs
        if inputs is None:
            raise ValueError(
                "expected the inputs (got a record without them); pass inputs="
            )
        found = []
        for name, tensors in (("input", inputs), ("map", self.attributions)):
            if isinstance(tensors, tuple):
                if len(tensors) != 1:
                    raise ValueError(
                        f"expected one {name} of images (got {len(tensors)} tensors); "
                        "draw or measure each with captum_margin.viz or .metrics"
                    )
                (tensors,) = tensors
            found.append(tensors)
        images, maps = found
        if len(images) != len(maps):
            raise ValueError(
                f"expected the {len(maps)} inputs that were explained (got "
                f"{len(images)}); pass the batch in its order"
            )
        return images, maps


def _moved(value: Any, device: torch.device | str) -> Any:
    """The same with every tensor on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return value


def are_tensors(value: Any) -> bool:
    """Whether it is a tensor or a tuple of some."""
    parts = value if isinstance(value, tuple) else (value,)
    return bool(parts) and all(isinstance(part, Tensor) for part in parts)


def _shapes(tensors: Tensors) -> str:
    parts = tensors if isinstance(tensors, tuple) else (tensors,)
    return ", ".join(str(tuple(part.shape)) for part in parts)
