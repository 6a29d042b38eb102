"""What was fitted, as a dictionary that is safe to save and load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captum_margin._model.hooks import named_layers
from captum_margin._model.layer_view import LayerView
from captum_margin.attr.representative.boundaries import BoundaryTable

__all__ = ["dump_table", "layer_of_state", "load_table"]

VERSION = 1
_TENSORS = ("weight", "activity", "bias", "reference", "projections", "classes")
_VALUES = ("executions", "linearization_error")


def dump_table(table: BoundaryTable, view: LayerView) -> dict[str, Any]:
    """Tensors on the CPU and plain values."""
    return {
        "version": VERSION,
        "layer": view.layer_name(),
        "attribute_to_layer_input": view.to_input,
        **{name: getattr(table, name).detach().cpu() for name in _TENSORS},
        **{name: getattr(table, name) for name in _VALUES},
    }


def layer_of_state(model: object, state: Mapping[str, Any]) -> nn.Module:
    """The layer that a state names.

    Raises:
        ValueError: If the model has no such layer.
    """
    name, layers = state.get("layer"), named_layers(model)
    if name not in layers:
        raise ValueError(
            f"expected a model with the layer {name!r} of the state (got "
            f"{type(model).__name__}); make the explainer with layer="
        )
    return layers[name]


def load_table(state: Mapping[str, Any], view: LayerView) -> tuple[bool, BoundaryTable]:
    """Whether the layer's input is meant, and the table.

    Raises:
        ValueError: If the state is of another version or layer, incomplete, or its
            shapes do not fit each other.
    """
    if state.get("version") != VERSION:
        raise ValueError(
            f"expected a state of version {VERSION} (got {state.get('version')!r}); "
            "fit again with this release"
        )
    missing = {"layer", "attribute_to_layer_input", *_TENSORS, *_VALUES} - set(state)
    if missing:
        raise ValueError(f"expected a complete state (got one without {missing})")
    layer = view.layer_name()
    if state["layer"] != layer:
        raise ValueError(
            f"expected a state of layer {layer!r} (got one of {state['layer']!r}); "
            "make the explainer with that layer, or fit again"
        )
    tensors: dict[str, Tensor] = {name: state[name] for name in _TENSORS}
    n_boundaries, n_references = len(tensors["weight"]), len(tensors["classes"])
    shapes = {
        "bias": (n_boundaries,),
        "reference": (n_boundaries,),
        "projections": (n_references, n_boundaries),
    }
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"expected {name} of shape {shape} (got {tuple(tensors[name].shape)}); "
                "the state is damaged: fit again"
            )
    device = view.device()
    weight, bias = tensors["weight"].to(device), tensors["bias"].to(device)
    table = BoundaryTable(
        weight=weight,
        activity=tensors["activity"].to(device),
        alpha=view.channel_weights(weight, tensors["activity"].to(device)),
        bias=bias,
        reference=tensors["reference"].to(torch.int64),
        projections=tensors["projections"],
        classes=tensors["classes"].to(torch.int64),
        **{name: state[name] for name in _VALUES},
    )
    return bool(state["attribute_to_layer_input"]), table
