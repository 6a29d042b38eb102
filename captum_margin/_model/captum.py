"""The one file that touches Captum's private helpers.

Captum moves its private names between releases; everything the package needs of
them passes through here, so that such a move breaks one file and one test.
"""

from __future__ import annotations

import operator
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum._utils.common import (
    _format_output,
    _format_tensor_into_tuples,
    _run_forward,
    _select_targets,
)
from captum._utils.gradient import (
    _extract_device_ids,
    _forward_layer_distributed_eval,
    _gather_distributed_tensors,
    compute_layer_gradients_and_eval,
)
from captum._utils.typing import (
    BaselineType,
    TargetType,
    TensorOrTupleOfTensorsGeneric,
)
from torch import Tensor, nn

from captum_margin._model.failures import refusals_explained
from captum_margin._model.forward_args import args_of_rows, plain_args
from captum_margin._model.gradients import gradients_explained
from captum_margin._model.hooks import eager
from captum_margin._model.layouts import check_layout
from captum_margin._model.outputs import SoftmaxWatch
from captum_margin._model.precision import models_precision
from captum_margin._model.refusals import Examples, refusal

__all__ = [
    "BaselineType",
    "Examples",
    "SoftmaxWatch",
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "check_layout",
    "check_output",
    "format_inputs",
    "format_output",
    "layer_and_output",
    "layer_gradients",
    "scores_of",
    "select_rows",
    "select_targets",
    "take_rows",
    "target_outputs",
    "target_scores",
]


def format_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns the inputs as a tuple of tensors that share a non-empty batch axis.

    Raises:
        AssertionError: If ``inputs`` is neither a tensor nor a tuple (as in Captum).
        ValueError: If a tensor has no batch axis, the batch is empty, the batch
            sizes differ, or a value is NaN or infinite.
    """
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    assert all(isinstance(part, Tensor) for part in parts), (
        "expected inputs as a tensor, or a tuple of tensors for several inputs (got "
        f"{', '.join(sorted({type(part).__name__ for part in parts}))}); convert them, "
        "for example with torch.as_tensor or torch.stack"
    )
    formatted: tuple[Tensor, ...] = _format_tensor_into_tuples(inputs)
    sizes = [tuple(tensor.shape) for tensor in formatted]
    if any(len(size) == 0 or size[0] == 0 for size in sizes) or (
        len({size[0] for size in sizes}) != 1
    ):
        raise ValueError(
            "expected inputs whose first axis is one non-empty batch axis "
            f"(got shapes {sizes}); add it with `inputs.unsqueeze(0)`"
        )
    for tensor in formatted:
        if tensor.layout != torch.strided:
            raise ValueError(
                f"expected dense inputs (got {tensor.layout}); call .to_dense() first"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                "expected finite inputs (got NaN or infinity); clean them first, "
                "for example with torch.nan_to_num"
            )
    return formatted


def format_output(
    is_tuple: bool, output: tuple[Tensor, ...]
) -> Tensor | tuple[Tensor, ...]:
    """Returns what came in: a tuple for a tuple, a tensor for a tensor."""
    formatted: Tensor | tuple[Tensor, ...] = _format_output(is_tuple, output)
    return formatted


def target_outputs(
    forward_func: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    additional_forward_args: object = None,
    *,
    of: Examples | None = None,
) -> Tensor:
    """Runs ``forward_func`` and refuses what cannot be scored.

    Args:
        forward_func (Callable): The model.
        inputs (tuple[Tensor, ...]): Tensors of n rows.
        additional_forward_args (Any, optional): As in Captum, for these rows.
        of (Examples, optional): What they are masked copies of, which the model took.
            Default: None

    Returns:
        Tensor: The model's output.

    Raises:
        TypeError: If the output is no tensor.
        ValueError: If the output holds NaN or infinity, or the model refuses what are
            copies.
    """
    if of is not None:
        return _outputs_of_copies(forward_func, inputs, additional_forward_args, of)
    with models_precision(), refusals_explained(forward_func, inputs):
        output = _run(forward_func, inputs, additional_forward_args)
    check_output(output)
    return output


def _run(forward_func: Callable[..., Tensor], inputs: Any, args: object) -> Tensor:
    output: Tensor = _run_forward(
        forward_func, inputs, None, plain_args(args, len(inputs[0]))
    )
    return output


def _outputs_of_copies(
    forward_func: Callable[..., Tensor],
    copies: tuple[Tensor, ...],
    args: Any,
    of: Examples,
) -> Tensor:
    """The outputs of masked copies, and why not if there are none."""

    def refused(reason: str) -> ValueError:
        def run(inputs: object, arguments: object) -> object:
            return _run(forward_func, inputs, arguments)

        return refusal(run, copies, args, of, reason)

    with models_precision():
        try:
            output = _run(forward_func, copies, args)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            words = str(error).strip().partition("\n")[0]
            raise refused(f"{type(error).__name__}: {words}") from error
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            if len(copies) > 1 or of.args is not None:
                raise refused("outputs of NaN or infinity")
        elif isinstance(output, Tensor) and output.dim():
            if of.args is not None and len(output) != len(of.rows):
                raise refused(f"outputs of {len(output)} rows")
            if of.are_mixed_in(output):
                raise refused(
                    f"outputs {tuple(output.shape)}, for the examples {of.output_shape}"
                )
    check_output(output)
    return output


def check_output(output: object) -> None:
    """Refuses what cannot be scored.

    Raises:
        TypeError: If the output is no tensor.
        ValueError: If the output holds NaN or infinity.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"expected forward_func to return a tensor (got {type(output).__name__}); "
            "wrap it so that it returns the tensor of scores"
        )
    if not torch.isfinite(output).all():
        raise ValueError(
            "expected finite model outputs (got NaN or infinity); check the model "
            "and the scale of its inputs"
        )


def select_targets(output: Tensor, target: TargetType, rows: int) -> Tensor:
    """One entry of ``output`` for each of its n rows, (n,).

    Raises:
        AssertionError: If the target does not fit the output (as in Captum), or if
            there is more than one entry per row and no target.
        ValueError: If there is no such class.
    """
    shape = tuple(output.shape)
    got = f"(got {textwrap.shorten(repr(target), 80)} for an output of shape {shape})"
    form = (
        "expected target as an int, for all examples, or as one int for each of the "
        f"{rows}, in a list or an integer tensor; as tuples of ints where the output "
        f"has more axes {got}"
    )
    target = _whole_target(target)
    assert target is not NotImplemented, form
    try:
        selected: Tensor = _select_targets(output, target)
    except AssertionError:
        raise AssertionError(form) from None
    except (IndexError, RuntimeError):
        last = ", ".join(str(size - 1) for size in shape[1:])
        raise ValueError(f"expected a target from 0 to {last} {got}") from None
    assert selected.numel() == rows, (
        f"Target not provided when necessary: expected one score per example, "
        f"({rows},) (got {tuple(selected.shape)}); pass `target`, and let "
        "forward_func score every example of a batch by itself."
    )
    return selected.reshape(rows)


def _whole_target(target: Any) -> Any:
    """A target of Captum's in its own types; NotImplemented if it has other numbers."""
    if isinstance(target, Tensor):
        other = target.is_floating_point() or target.is_complex()
        return NotImplemented if other or target.dtype == torch.bool else target.long()
    if isinstance(target, list):
        whole = [_whole_target(value) for value in target]
        whole = [
            v.item() if isinstance(v, Tensor) and v.dim() == 0 else v for v in whole
        ]
        return NotImplemented if any(v is NotImplemented for v in whole) else whole
    if target is None or isinstance(target, tuple):
        return target
    try:
        return NotImplemented if isinstance(target, bool) else operator.index(target)
    except TypeError:
        return NotImplemented


def layer_and_output(
    forward_func: Callable[..., Tensor],
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    additional_forward_args: object = None,
    *,
    device_ids: list[int] | None = None,
    attribute_to_layer_input: bool = False,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The tensors at a layer and the model's output, in one forward pass.

    Layers that are changed in place and models in ``DataParallel`` are what Captum
    makes of them: the values before the change, gathered from all devices.

    Raises:
        ValueError: If the layer is not run.
    """
    refusals = refusals_explained(forward_func, inputs, layer)
    with eager(), refusals, _layer_is_run(layer):
        saved, output = _forward_layer_distributed_eval(
            forward_func,
            inputs,
            layer,
            additional_forward_args=plain_args(additional_forward_args, len(inputs[0])),
            attribute_to_layer_input=attribute_to_layer_input,
            forward_hook_with_return=True,
        )
    check_output(output)
    device_ids = _extract_device_ids(forward_func, saved, device_ids)
    return _gather_distributed_tensors(saved[layer], device_ids), output


def layer_gradients(
    score_func: Callable[..., Tensor],
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    additional_forward_args: object = None,
    *,
    device_ids: list[int] | None = None,
    attribute_to_layer_input: bool = False,
    grad_kwargs: dict[str, Any] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Gradients of one score a row with respect to a layer's tensors, and these.

    Gradients are enabled inside, and no parameter's ``.grad`` is touched.

    Raises:
        ValueError: If the layer is not run, or the scores have no gradient.
    """

    def forward() -> object:
        return _run(score_func, inputs, additional_forward_args)

    explained = gradients_explained(forward, "the layer")
    with eager(), _layer_is_run(layer), explained:
        gradients, values = compute_layer_gradients_and_eval(
            score_func,
            layer,
            inputs,
            additional_forward_args=plain_args(additional_forward_args, len(inputs[0])),
            device_ids=device_ids,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )
    return gradients, values


@contextmanager
def _layer_is_run(layer: nn.Module) -> Iterator[None]:
    """Says what to do about a layer whose hook is not called."""
    try:
        yield
    except AssertionError as error:
        if "hook did not" not in str(error):
            raise
        raise ValueError(
            f"expected a layer that the model runs (got a {type(layer).__name__} that "
            "is not run); pass one of this very model, model.get_submodule(name), not "
            "of a copy, and no layer that only training needs"
        ) from error


def target_scores(
    forward_func: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target: TargetType,
    additional_forward_args: object = None,
    *,
    softmax: bool = True,
    watch: SoftmaxWatch | None = None,
    of: Examples | None = None,
) -> Tensor:
    """Scores of the target, one per row of ``inputs``.

    The softmax needs the whole row of logits, so the model runs without a target and
    the target is selected afterwards.

    Args:
        forward_func (Callable): The model.
        inputs (tuple[Tensor, ...]): Tensors of n rows.
        target (int, tuple, Tensor or list, optional): As in
            :class:`captum.attr.FeatureAblation`.
        additional_forward_args (Any, optional): As there.
        softmax (bool): Whether a two-dimensional output of more than one column is
            taken as logits and turned into probabilities. Other outputs are used as
            they are. Default: True
        watch (SoftmaxWatch, optional): Told of what gets a softmax. Default: None
        of (Examples, optional): As in :func:`target_outputs`. Default: None

    Returns:
        Tensor: Scores of shape (n,).

    Raises:
        AssertionError: If the target does not fit the output (as in Captum), or if
            there is more than one score per row and no target.
    """
    output = target_outputs(forward_func, inputs, additional_forward_args, of=of)
    return scores_of(output, target, inputs[0].shape[0], softmax=softmax, watch=watch)


def scores_of(
    output: Tensor,
    target: TargetType,
    rows: int,
    *,
    softmax: bool,
    watch: SoftmaxWatch | None = None,
) -> Tensor:
    """Scores of the target in an output of n rows, (n,): :func:`target_scores`."""
    if softmax and output.dim() == 2 and output.shape[1] > 1:
        if watch is not None:
            watch.note(output)
        # Half precision would round away what a masked copy changes.
        dtype = torch.promote_types(output.dtype, torch.float32)
        output = output.softmax(dim=1, dtype=dtype)
    return select_targets(output, target, rows)


def select_rows(
    target: TargetType,
    additional_forward_args: object,
    rows: Tensor,
    n_examples: int,
) -> tuple[TargetType, tuple[object, ...] | None]:
    """The target and the forward arguments of some examples of a batch.

    Args:
        target (int, tuple, Tensor or list, optional): As in Captum, for the batch.
        additional_forward_args (Any, optional): As in Captum, for the batch.
        rows (Tensor): The examples, one index a row, repeats allowed, (n,).
        n_examples (int): Examples in the batch.

    Returns:
        tuple: The target and the arguments for the n rows. As in Captum, one target
        for all stays as it is; which arguments are indexed is said at
        :class:`captum_margin.Shared`.

    Raises:
        ValueError: As :func:`args_of_rows`.
    """
    args = args_of_rows(additional_forward_args, rows, n_examples)
    if isinstance(target, list) and len(target) == n_examples:
        target = [target[row] for row in rows.tolist()]
    elif isinstance(target, Tensor) and target.dim() == 1 and target.numel() > 1:
        if len(target) == n_examples:
            target = target[rows.to(target.device)]
    return target, args


def take_rows(
    inputs: tuple[Tensor, ...], additional_forward_args: object, rows: Tensor
) -> tuple[tuple[Tensor, ...], tuple[object, ...] | None]:
    """The inputs and the forward arguments of some examples of a batch."""
    _, args = select_rows(None, additional_forward_args, rows, len(inputs[0]))
    return tuple(tensor[rows.to(tensor.device)] for tensor in inputs), args
