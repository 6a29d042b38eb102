"""The filter as a recorded program: compiled, exported, traced, transformed."""

import shutil

import pytest
import torch
from torch.autograd import forward_ad

from captum_margin.signal import HighPass
from tests.helpers.graphs import layouts, sample_signal

SHIFTS = ["random_walk", "symmetric", "adjacency", "laplacian"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_compiles_with_its_gradients(backend, shift):
    torch._dynamo.reset()
    x, edges, weight = sample_signal()
    layer = HighPass(shift, hops=2, isolated="zero")
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    inputs = x.requires_grad_(), weight.requires_grad_()
    found, expected = (run(x, edges, weight) for run in (compiled, layer))
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
    )


@pytest.mark.parametrize(
    "name",
    [name for name in layouts(*sample_signal()[1:], 12) if not name.startswith("c")],
)
def test_compiles_for_every_list_of_edges(name):
    torch._dynamo.reset()
    x, edges, weight = sample_signal()
    form, values = layouts(edges, weight, 12)[name]
    compiled = torch.compile(HighPass(), backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x, form, values), HighPass()(x, edges, weight), msg=name
    )


def test_one_compilation_serves_all_sizes():
    torch._dynamo.reset()
    count = torch._dynamo.testing.CompileCounter()
    layer = HighPass("symmetric", hops=2)
    compiled = torch.compile(layer, backend=count, fullgraph=True, dynamic=True)
    for n in (12, 7, 20):
        signal = sample_signal(n=n)
        torch.testing.assert_close(compiled(*signal), layer(*signal))
    assert count.frame_count == 1


def test_support_normalized_compiles_in_parts():
    torch._dynamo.reset()
    signal = sample_signal()
    layer = HighPass("symmetric", hops=2, support_normalized=True)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(*signal), layer(*signal))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor():
    torch._dynamo.reset()
    layer = HighPass("symmetric", hops=2, isolated="zero")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for n in (12, 7):
        x, edges, weight = sample_signal(n=n)
        x.requires_grad_()
        found, expected = (run(x, edges, weight) for run in (compiled, layer))
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), x),
            torch.autograd.grad(expected.square().sum(), x),
        )


@pytest.mark.parametrize("isolated", ["keep", "zero"])
def test_exports_with_sizes_left_open(isolated):
    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    layer = HighPass("symmetric", 2, isolated=isolated)
    program = torch.export.export(
        layer,
        sample_signal(),
        dynamic_shapes=({0: nodes}, {1: edges}, {0: edges}),
    )
    other = sample_signal(5, n=7)
    torch.testing.assert_close(program.module()(*other), layer(*other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_does_not_depend_on_the_graph_it_was_made_of():
    x, edges, weight = sample_signal()
    by_target = layouts(edges, weight, 12)["edge_index, by target"]
    traced = torch.jit.trace(HighPass("symmetric", 2), (x, *by_target))
    other = sample_signal(5, n=7)  # another size, and not sorted
    torch.testing.assert_close(traced(*other), HighPass("symmetric", 2)(*other))


@pytest.mark.parametrize("name", ["edge_index, shuffled", "edge_index, by target"])
def test_function_transforms(name):
    x, edges, weight = sample_signal()
    form = layouts(edges, weight, 12)[name]
    layer = HighPass("symmetric")
    direction = torch.randn_like(x)
    low = layer(direction, *form)
    _, tangent = torch.func.jvp(lambda x: layer(x, *form), (x,), (direction,))
    torch.testing.assert_close(tangent, low)  # the filter is linear
    with forward_ad.dual_level():
        out = layer(forward_ad.make_dual(x, direction), *form)
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, low)
    signals = torch.stack([x, direction])
    each = torch.stack([layer(signal, *form) for signal in signals])
    torch.testing.assert_close(torch.vmap(lambda x: layer(x, *form))(signals), each)
    jacobians = [
        transform(lambda x: layer(x, *form)[:, 0])(x)
        for transform in (torch.func.jacfwd, torch.func.jacrev)
    ]
    torch.testing.assert_close(*jacobians)
