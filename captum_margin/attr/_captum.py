"""The one file that touches Captum's private helpers.

Captum moves its private names between releases; everything the package needs of
them passes through here, so that such a move breaks one file and one test.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from captum._utils.common import (
    ExpansionTypes,
    _expand_additional_forward_args,
    _expand_target,
    _format_additional_forward_args,
    _format_output,
    _format_tensor_into_tuples,
    _run_forward,
    _select_targets,
)
from captum._utils.typing import (
    BaselineType,
    TargetType,
    TensorOrTupleOfTensorsGeneric,
)
from torch import Tensor

__all__ = [
    "BaselineType",
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "format_inputs",
    "format_output",
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
    n_copies: int = 1,
) -> Tensor:
    """Runs ``forward_func`` on ``inputs`` that hold ``n_copies`` of a batch in turn.

    Args:
        forward_func (Callable): The model.
        inputs (tuple[Tensor, ...]): Tensors of ``n_copies * B`` rows: the whole batch
            of B examples, then the whole batch again, and so on.
        additional_forward_args (Any, optional): As in
            :class:`captum.attr.FeatureAblation`; tensors of B rows are repeated.
        n_copies (int): How often the batch is repeated in ``inputs``.

    Returns:
        Tensor: The model's output.

    Raises:
        TypeError: If the output is no tensor.
        ValueError: If the output holds NaN or infinity.
    """
    args = _format_additional_forward_args(additional_forward_args)
    if n_copies > 1:
        args = _expand_additional_forward_args(args, n_copies, ExpansionTypes.repeat)
    output = _run_forward(forward_func, inputs, None, args)
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
    return output


def target_scores(
    forward_func: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target: TargetType,
    additional_forward_args: object = None,
    *,
    softmax: bool = True,
    n_copies: int = 1,
) -> Tensor:
    """Scores of the target, one per row of ``inputs``.

    The softmax needs the whole row of logits, so the model runs without a target and
    the target is selected afterwards.

    Args:
        forward_func (Callable): The model.
        inputs (tuple[Tensor, ...]): As in :func:`target_outputs`.
        target (int, tuple, Tensor or list, optional): As in
            :class:`captum.attr.FeatureAblation`, for the batch of B examples.
        additional_forward_args (Any, optional): As in :func:`target_outputs`.
        softmax (bool): Whether a two-dimensional output of more than one column is
            taken as logits and turned into probabilities. Other outputs are used as
            they are. Default: True
        n_copies (int): As in :func:`target_outputs`.

    Returns:
        Tensor: Scores of shape (n_copies * B,).

    Raises:
        AssertionError: If the target does not fit the output (as in Captum), or if
            there is more than one score per example and no target.
    """
    output = target_outputs(forward_func, inputs, additional_forward_args, n_copies)
    rows = inputs[0].shape[0]
    if output.dim() == 2 and output.shape[1] > 1 and softmax:
        if n_copies == 1 and _are_probabilities(output):
            warnings.warn(
                "the model's outputs are probabilities already: pass softmax=False, "
                "or return logits, so that the softmax is not applied twice",
                stacklevel=3,
            )
        output = output.softmax(dim=1)
    if target is not None:
        if n_copies > 1:
            target = _expand_target(target, n_copies, ExpansionTypes.repeat)
        output = _select_targets(output, target)
    assert output.numel() == rows, (
        f"Target not provided when necessary: expected one score per example, "
        f"({rows},) (got {tuple(output.shape)}); pass `target`, and let forward_func "
        "score every example of a batch by itself."
    )
    return output.reshape(rows)


def _are_probabilities(output: Tensor) -> bool:
    sums = output.sum(dim=1)
    return bool((output >= 0).all() and (sums - 1).abs().max() < 1e-3)
