"""Models run so that hooks on their layers are called, and layers by their names."""

from __future__ import annotations

import inspect
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

__all__ = ["check_hooks", "eager", "layer_name", "named_layers", "uncompiled"]

_COMPILED = "_orig_mod"  # the model within what torch.compile returns


def eager() -> AbstractContextManager[object]:
    """Runs models as they were before ``torch.compile``, wherever they are called.

    Compiled code does not call hooks that came after its compilation.
    """
    # Since torch 2.6. Whoever has compiled a model has loaded this: it takes seconds.
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` was given; others as they are."""
    inner = getattr(model, _COMPILED, model)
    return inner if isinstance(inner, nn.Module) else model


def check_hooks(model: object, layer: nn.Module | None = None) -> None:
    """Refuses models whose layers call no hooks.

    Raises:
        ValueError: If the model, or the layer, is scripted or traced.
    """
    if callable(model):
        model = inspect.unwrap(model)
    model = model.module if isinstance(model, nn.DataParallel) else model
    for part in (model, layer):
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                "expected a model whose layers can be seen at work (got one of "
                "torch.jit.script or trace, which hides them); explain the model it "
                "was made of, or use MarginSaliency, which sees the outputs only"
            )


def layer_name(model: object, layer: nn.Module) -> str:
    """The layer's name in the model, or its type where it cannot be found."""
    for name, module in named_layers(model).items():
        if module is layer:
            return name
    return type(layer).__name__


def named_layers(model: object) -> dict[str, nn.Module]:
    """The model's layers by name; of no Module none.

    The names are those of the model itself, in ``DataParallel`` and compiled too.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    if not isinstance(model, nn.Module):
        return {}
    model = uncompiled(model)
    inside = f"{_COMPILED}."
    return {
        str(name).replace(inside, ""): layer for name, layer in model.named_modules()
    }
