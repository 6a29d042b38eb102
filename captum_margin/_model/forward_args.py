"""Which additional forward arguments go along with the examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["PerExample", "Shared", "args_of_rows", "as_tuple", "plain_args"]


@dataclass(frozen=True, eq=False)  # values, such as tensors, may not compare
class Shared:
    """An additional forward argument that all examples share, whatever its size.

    Methods and metrics show a model many masked copies of its B examples at once, and
    what belongs to an example has to go along with its copies. The rule is:

    - a tensor whose first axis has B places holds one value an example, and its rows go
      along (in Captum every tensor does that has an axis);
    - everything else is passed as it is: other tensors, numbers, strings, tuples,
      dicts, None, and lists and arrays of another length than B;
    - a list or an array of B > 1 values may be either and is refused unless wrapped.

    ``Shared(value)`` and :class:`PerExample` say it of one argument, and go before the
    rule; the model is given the value itself. Captum's own methods and metrics do not
    know them, and repeat the tensors only.

    Args:
        value (Any): The argument.

    Examples::

        >>> import torch
        >>> from captum_margin import MarginSaliency, Shared
        >>> model = lambda x, weights: x @ weights.T
        >>> x, weights = torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 5.0]])
        >>> explainer = MarginSaliency(model)
        >>> explainer.attribute(
        ...     x, target=[0, 1], additional_forward_args=Shared(weights), softmax=False
        ... )
        tensor([[3., 0.],
                [0., 5.]])
    """

    value: Any


@dataclass(frozen=True, eq=False)  # values, such as tensors, may not compare
class PerExample:
    """An additional forward argument of one value for each of the B examples, in order.

    For lists, such as texts; tensors of B rows are taken so in any case. See
    :class:`Shared`.

    Args:
        value (Any): A list, tuple, array or tensor of B values.
    """

    value: Any


def plain_args(args: object, n_examples: int) -> tuple[object, ...] | None:
    """The arguments as the model wants them, a tuple; None without any.

    Raises:
        ValueError: If there is not one value an example.
    """
    given = as_tuple(args)
    if given is None:
        return None
    for place, arg in enumerate(given):
        _check_per_example(arg, n_examples, place)
    return tuple(
        arg.value if isinstance(arg, (Shared, PerExample)) else arg for arg in given
    )


def args_of_rows(
    args: object, rows: Tensor, n_examples: int
) -> tuple[object, ...] | None:
    """The arguments of some examples of a batch, one index a row, repeats allowed.

    Raises:
        ValueError: If a list may belong to the examples or to all, or there is not one
            value an example.
    """
    given = as_tuple(args)
    if given is None:
        return None
    return tuple(
        _of_rows(arg, rows, n_examples, place) for place, arg in enumerate(given)
    )


def as_tuple(args: object) -> tuple[object, ...] | None:
    """The arguments as a tuple, as Captum takes them; None without any."""
    return args if args is None or isinstance(args, tuple) else (args,)


def _of_rows(arg: object, rows: Tensor, n_examples: int, place: int) -> object:
    if isinstance(arg, PerExample):
        _check_per_example(arg, n_examples, place)
        if isinstance(arg.value, (list, tuple)):
            chosen = [arg.value[row] for row in rows.tolist()]
            return PerExample(type(arg.value)(chosen))
        if isinstance(arg.value, Tensor):
            return PerExample(arg.value[rows.to(arg.value.device)])
        return PerExample(arg.value[rows.cpu().numpy()])
    if isinstance(arg, Tensor):
        own = arg.dim() > 0 and len(arg) == n_examples
        return arg[rows.to(arg.device)] if own else arg
    if n_examples > 1 and length_of(arg) == n_examples:
        raise ValueError(
            f"expected additional_forward_args[{place}] as a tensor, or marked (got a "
            f"{type(arg).__name__} of {n_examples}, as many as there are examples); "
            "wrap it in captum_margin.PerExample if it has a value for each example, "
            "in captum_margin.Shared if all of it is for every example"
        )
    return arg


def _check_per_example(arg: object, n_examples: int, place: int) -> None:
    if isinstance(arg, PerExample) and len(arg.value) != n_examples:
        raise ValueError(
            f"expected {n_examples} values, one an example, of PerExample, "
            f"additional_forward_args[{place}] (got {len(arg.value)}); what "
            "repeats the examples, such as NoiseTunnel, repeats tensors only: pass "
            "a tensor, for example of the places of the values in a list"
        )


def length_of(arg: object) -> int | None:
    """The length of a list or an array; None of anything else."""
    if isinstance(arg, list):
        return len(arg)
    shape = getattr(arg, "shape", None)
    if isinstance(arg, Tensor) or not isinstance(shape, tuple) or not shape:
        return None
    first = shape[0]
    return first if isinstance(first, int) and not isinstance(arg, torch.Size) else None
