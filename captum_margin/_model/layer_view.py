"""A network cut in two at a layer: feature maps below it, class scores above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._model.captum import (
    TargetType,
    check_output,
    layer_and_output,
    layer_gradients,
    select_targets,
    target_outputs,
)
from captum_margin._model.forward_args import plain_args
from captum_margin._model.hooks import check_hooks, eager, layer_name

__all__ = ["LayerView", "class_scores", "margins", "own_scores", "target_classes"]


def class_scores(output: Tensor) -> Tensor:
    """A model's outputs as scores of C >= 2 classes, (B, C).

    One score a row, s, becomes the scores (0, s) of two classes; what has more than
    two axes is flattened.
    """
    scores = output.reshape(len(output), -1)
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
    return scores


def target_classes(output: Tensor, target: TargetType) -> Tensor:
    """The column of :func:`class_scores` that a target of Captum's names, (B,).

    Raises:
        AssertionError: If the target does not fit the output (as in Captum), or there
            is none and a row has more than one score.
    """
    rows = len(output)
    n_columns = output[0].numel()
    columns = torch.arange(n_columns, device=output.device)
    columns = columns.view(1, *output.shape[1:]).expand(output.shape)
    selected = select_targets(columns, target, rows)
    return torch.ones_like(selected) if n_columns == 1 else selected


def margins(scores: Tensor, classes: Tensor | None = None) -> Tensor:
    """Scores of the given classes minus the largest other scores, (B,).

    Without classes: the largest score minus the second largest.
    """
    if classes is None:
        largest = scores.topk(2, dim=1).values
        return largest[:, 0] - largest[:, 1]
    own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, classes[:, None], True)
    others = scores.masked_fill(own, -torch.inf).amax(dim=1)
    return scores.gather(1, classes[:, None])[:, 0] - others


def own_scores(output: Tensor, classes: Tensor) -> Tensor:
    """What Grad-CAM explains: the score of each row's class alone, (B,).

    With one score a row: the score for class 1, its negative for class 0.
    """
    scores = class_scores(output)
    if output[0].numel() == 1:
        return margins(scores, classes)
    return scores.gather(1, classes[:, None])[:, 0]


class LayerView:
    """The layer's values, the class scores, and the gradient of one to the other.

    Args:
        forward_func (Callable): The model, class scores out.
        layer (Module): One of its layers, with one tensor as output (or input).
        device_ids (list[int], optional): As in Captum's layer methods.
        attribute_to_layer_input (bool): Whether the layer's input is meant.
        reshape_transform (Callable, optional): From the layer's values, or their
            gradients, to (B, K, h, w), for layers of tokens; linear.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: nn.Module,
        device_ids: list[int] | None,
        attribute_to_layer_input: bool = False,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"expected the layer as a Module (got {type(layer).__name__}); by name "
                "it is model.get_submodule(name)"
            )
        check_hooks(forward_func, layer)
        self.forward_func = forward_func
        self.layer = layer
        self.device_ids = device_ids
        self.to_input = attribute_to_layer_input
        self.reshape_transform = reshape_transform

    def device(self) -> torch.device:
        """Where inputs must be for the model to take them."""
        model = self.forward_func
        module = model if isinstance(model, nn.Module) else self.layer
        parameter = next(module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def layer_name(self) -> str:
        """The layer's name in the model, or its type where it cannot be found."""
        return layer_name(self.forward_func, self.layer)

    def channels(self, values: Tensor) -> Tensor:
        """Values of the layer, or gradients to them, as (B, K, ...)."""
        if self.reshape_transform is None:
            return values
        maps = self.reshape_transform(values)
        if maps.dim() < 2 or len(maps) != len(values):
            raise ValueError(
                "expected reshape_transform to return (B, K, h, w) (got "
                f"{tuple(maps.shape)} for {tuple(values.shape)})"
            )
        return maps

    def channel_weights(self, weight: Tensor, activity: Tensor | None = None) -> Tensor:
        """Means over positions of the channels of W, (Q, K).

        Args:
            weight (Tensor): W, shape (Q, *layer_shape).
            activity (Tensor, optional): How active each position of a channel is on
                average, (K, ...), the weight of the position in the mean; channels
                that are never active, and all without this, have the plain mean.
        """
        weight = self.channels(weight)
        weight = weight.reshape(*weight.shape[:2], -1)
        plain = weight.mean(dim=2)
        if activity is None:
            return plain
        activity = activity.to(weight).reshape(weight.shape[1], -1)
        total = activity.sum(dim=1)
        weighted = (weight * activity).sum(dim=2) / total.where(total > 0, 1)
        return weighted.where(total > 0, plain)

    @torch.no_grad()
    def values_and_output(
        self, inputs: tuple[Tensor, ...], args: object = None
    ) -> tuple[Tensor, Tensor]:
        """Feature maps (B, ...) and the model's output, in one forward pass."""
        saved, output = layer_and_output(
            self.forward_func,
            self.layer,
            inputs,
            args,
            device_ids=self.device_ids,
            attribute_to_layer_input=self.to_input,
        )
        return _single(saved), output

    @torch.no_grad()
    def values(
        self, inputs: tuple[Tensor, ...], args: object = None, executions: int = 1
    ) -> Tensor:
        """Feature maps (B, ...); the model is left as soon as they are there.

        A layer that the model uses several times has the values of its last use, as in
        Captum: ``executions`` says how often it is run.
        """
        if isinstance(self.forward_func, nn.DataParallel):
            return self.values_and_output(inputs, args)[0]
        seen: list[Any] = []

        def leave(_: nn.Module, passed: Any) -> None:
            seen.append(passed)
            if len(seen) == executions:
                raise _Reached

        with self._hook(leave):
            try:
                target_outputs(self.forward_func, inputs, args)
            except _Reached:
                return _single(seen[-1])
        # A branch of the model ran the layer less often; what was seen of it may have
        # been changed in place since.
        return self.values_and_output(inputs, args)[0]

    def count_executions(self, inputs: tuple[Tensor, ...], args: object = None) -> int:
        """How often one forward pass runs the layer.

        Raises:
            AssertionError: If the layer gives, or takes, several tensors in a tuple.
            ValueError: If it gives none, or another container.
        """
        seen: list[Any] = []
        with self._hook(lambda layer, passed: seen.append(passed)), torch.no_grad():
            target_outputs(self.forward_func, inputs, args)
        for passed in seen:
            _single(passed)
        return max(1, len(seen))

    def gradients(
        self,
        inputs: tuple[Tensor, ...],
        args: object = None,
        classes: Tensor | None = None,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        own: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the margins to the feature maps; these; the class scores.

        ``classes`` are those of :func:`margins`; with ``own`` the gradients are those
        of :func:`own_scores`, which needs classes.
        """
        found: list[Tensor] = []

        def score(*arguments: Any) -> Tensor:
            output = self.forward_func(*arguments)
            check_output(output)
            found.append(class_scores(output))
            if own and classes is not None:
                return own_scores(output, classes)
            return margins(found[0], classes)

        # Captum looks here for the order of the devices.
        score.device_ids = getattr(self.forward_func, "device_ids", None)  # type: ignore[attr-defined]
        with torch.inference_mode(False):
            classes = _outside_inference(classes)
            inputs = tuple(map(_outside_inference, inputs))
            args = plain_args(args, len(inputs[0]))
            if args is not None:
                args = tuple(map(_outside_inference, args))
            gradients, values = layer_gradients(
                score,
                self.layer,
                inputs,
                args,
                device_ids=self.device_ids,
                attribute_to_layer_input=self.to_input,
                grad_kwargs=grad_kwargs,
            )
        return _single(gradients).detach(), _single(values).detach(), found[0].detach()

    @torch.no_grad()
    def scores_of_scaled(
        self,
        inputs: tuple[Tensor, ...],
        args: object,
        executions: int,
        factor: Tensor,
    ) -> Tensor:
        """Class scores when feature maps are multiplied by a factor, (*layer_shape)."""
        seen = 0

        def scale(layer: nn.Module, passed: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen < executions:
                return passed
            if isinstance(passed, tuple):
                return tuple(tensor * factor.to(tensor) for tensor in passed)
            return passed * factor.to(passed)

        with self._hook(scale):
            return class_scores(target_outputs(self.forward_func, inputs, args))

    @contextmanager
    def _hook(self, function: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
        """Gives what passes the layer to a function while the context lasts."""
        if self.to_input:
            handle = self.layer.register_forward_pre_hook(function)
        else:
            handle = self.layer.register_forward_hook(
                lambda layer, args, output: function(layer, output)
            )
        try:
            with eager():
                yield
        finally:
            handle.remove()


class _Reached(BaseException):
    """Leaves a forward pass; no model's own ``except Exception`` stops it."""


def _outside_inference(argument: Any) -> Any:
    """The same tensor, fit for autograd."""
    if isinstance(argument, Tensor) and argument.is_inference():
        return argument.clone()
    return argument


def _single(values: Any) -> Tensor:
    """The one tensor that passes a layer, with a batch axis and channels.

    Raises:
        AssertionError: If there are several in a tuple (as in Captum).
        ValueError: If there is none, or another container.
    """
    if isinstance(values, tuple) and len(values) == 1:
        values = values[0]
    if not isinstance(values, Tensor) or values.dim() < 2:
        got = (
            str(tuple(values.shape))
            if isinstance(values, Tensor)
            else f"a {type(values).__name__} of {len(values)}"
            if isinstance(values, (tuple, list, dict))
            else f"a {type(values).__name__}"
        )
        error = AssertionError if isinstance(values, tuple) else ValueError
        raise error(
            f"expected a layer with one tensor, (B, K) or (B, K, h, w) (got {got}); "
            "choose a layer inside it, or the one that takes its output"
        )
    return values
