"""What to do when a model takes its examples, but not masked copies of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from captum_margin._model.forward_args import (
    PerExample,
    Shared,
    as_tuple,
    length_of,
)

__all__ = ["Examples", "refusal"]


class Examples(NamedTuple):
    """What rows were made of.

    Args:
        inputs (tuple[Tensor, ...]): B examples.
        args (Any, optional): Their additional forward arguments, as they were given.
        rows (Tensor): The example of each of n rows, (n,).
        output_shape (tuple[int, ...], optional): Of the model's output for the
            examples themselves, where that is known. Default: None
    """

    inputs: tuple[Tensor, ...]
    args: object
    rows: Tensor
    output_shape: tuple[int, ...] | None = None

    def are_mixed_in(self, output: Tensor) -> bool:
        """Whether another axis than the first grew from B to n with the rows.

        So does what a model compares its rows with, instead of scoring each by itself.
        """
        before, now = self.output_shape or (), tuple(output.shape)
        sizes = len(self.inputs[0]), len(self.rows)
        return (
            len(before) == len(now)
            and sizes[0] != sizes[1]
            and sizes in zip(before[1:], now[1:], strict=True)
        )


_Run = Callable[[tuple[Tensor, ...], tuple[object, ...] | None], object]


def refusal(
    run: _Run,
    copies: tuple[Tensor, ...],
    args: tuple[object, ...] | None,
    of: Examples,
    reason: str,
) -> ValueError:
    """The error that names what the model refuses, found by changing one thing.

    Args:
        run (Callable): Runs the model.
        copies (tuple[Tensor, ...]): The n rows that it refused.
        args (tuple, optional): The arguments that went with them.
        of (Examples): What they were made of.
        reason (str): What went wrong, in a few words.

    Cost: on failure only, one forward pass for each input and argument, and one more.
    """
    n_rows, n_examples = len(of.rows), len(of.inputs[0])
    head = (
        f"expected forward_func to take {n_rows} masked copies at once of the "
        f"{n_examples} examples that it took (got {textwrap.shorten(reason, 120)})"
    )

    def works(inputs: tuple[Tensor, ...], arguments: tuple[object, ...] | None) -> bool:
        try:
            with torch.no_grad():
                output = run(inputs, arguments)
        except Exception:
            return False
        if not isinstance(output, Tensor) or output.dim() == 0:
            return False
        if len(output) != n_rows or of.are_mixed_in(output):
            return False
        return bool(output.isfinite().all())

    given = as_tuple(of.args) or ()
    for place, (arg, sent) in enumerate(zip(given, args or (), strict=True)):
        for other, advice in _otherwise(arg, sent, of.rows):
            changed = (*(args or ())[:place], other, *(args or ())[place + 1 :])
            if works(copies, changed):
                return ValueError(f"{head}: {advice.format(place)}")
    whole = tuple(tensor[of.rows.to(tensor.device)] for tensor in of.inputs)
    if len(copies) > 1:
        for place, tensor in enumerate(whole):
            if works((*copies[:place], tensor, *copies[place + 1 :]), args):
                return ValueError(
                    f"{head}: it refuses inputs[{place}] ({tensor.dtype}) with values "
                    "of the baseline; what is not to be masked, such as lengths, "
                    "belongs into additional_forward_args, as a tensor with a value "
                    "for each example"
                )
    if works(whole, args):
        return ValueError(
            f"{head}: it takes so many of the examples themselves, so it refuses "
            "values of the baseline; pass other baselines"
        )
    return ValueError(
        f"{head}: it must take any number of rows (fewer at once with "
        "perturbations_per_eval=1, or internal_batch_size) and score each by itself, "
        "and take additional_forward_args with them; see captum_margin.Shared for what "
        "of these goes along with the rows"
    )


def _otherwise(arg: object, sent: object, rows: Tensor) -> list[tuple[object, str]]:
    """The argument in the other way, shared or not, and what to say if it works."""
    if isinstance(arg, Tensor) and sent is not arg:
        return [
            (
                arg,
                "additional_forward_args[{0}] "
                f"{tuple(arg.shape)} went along with the rows, as its first size is "
                "the number of examples; wrap it in captum_margin.Shared, for it is "
                "for all of them",
            )
        ]
    if isinstance(arg, (Shared, PerExample)) or length_of(arg) != 1:
        return []
    repeated = PerExample([arg[0]] * len(rows))  # type: ignore[index]
    return [
        (
            repeated,
            "additional_forward_args[{0}] "
            f"({type(arg).__name__} of 1) was passed as it is; wrap it in "
            "captum_margin.PerExample, for it has a value for each example",
        )
    ]
