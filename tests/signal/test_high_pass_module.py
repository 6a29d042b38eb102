"""The filter as a module: gradients, dtypes, devices, tracing, text and errors."""

import math

import pytest
import torch

from captum_margin.signal import HighPass
from tests.helpers.graphs import layouts, path, sample_signal, star

SHIFTS = ["random_walk", "symmetric", "adjacency", "laplacian"]
CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("hops", [1, 2])
def test_gradcheck(shift, hops):
    x, edge_index, edge_weight = sample_signal(n=6, channels=2)
    layer = HighPass(shift, hops)
    torch.autograd.gradcheck(
        lambda x, weight: layer(x, edge_index, weight),
        (x.requires_grad_(), edge_weight.requires_grad_()),
    )


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        (torch.float32, 1e-4, 1e-5),
        (torch.bfloat16, 1.6e-2, 1e-2),  # 8 bits of significand
        (torch.float16, 2e-3, 2e-3),
    ],
)
def test_dtype_is_kept(shift, dtype, rtol, atol):
    x, edge_index, edge_weight = sample_signal(dtype=dtype)
    expected = HighPass(shift)(x.double(), edge_index, edge_weight.double())
    for tensor in (x, x.clone().requires_grad_()):
        got = HighPass(shift)(tensor, edge_index, edge_weight)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


def test_bfloat16_counts_a_hub_exactly():
    leaves = 1001  # bfloat16 cannot tell 1001 from 1000
    x = torch.zeros(leaves + 1, dtype=torch.bfloat16)
    x[0] = 1.0
    x[1] = 1001.0
    got = HighPass()(x, star(leaves))
    assert got[0].item() == pytest.approx(1 - 1000 / 1001, abs=1e-4)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 4), (5, 0)])
def test_shape_is_kept_and_nothing_is_written(shape):
    x = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    edges, weight = path(5), torch.full((8,), 2.0)
    before = x.clone(), edges.clone(), weight.clone()
    assert HighPass(isolated="zero")(x, edges, weight).shape == shape
    for tensor, kept in zip((x, edges, weight), before, strict=True):
        assert torch.equal(tensor, kept)


def test_vector_equals_column():
    x, edge_index, edge_weight = sample_signal(channels=1)
    layer = HighPass(hops=3)
    vector = layer(x[:, 0], edge_index, edge_weight)
    torch.testing.assert_close(vector, layer(x, edge_index, edge_weight)[:, 0])


def test_compiles_as_one_graph():
    x, edge_index, edge_weight = sample_signal()
    layer = HighPass("symmetric", hops=2, isolated="zero")
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x, edge_index, edge_weight), layer(x, edge_index, edge_weight)
    )


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_on_the_gpu(device, shift):
    x, edge_index, edge_weight = sample_signal()
    expected = HighPass(shift, 2)(x, edge_index, edge_weight)
    for name, (edges, weight) in layouts(edge_index, edge_weight, 12).items():
        on_device = None if weight is None else weight.to(device)
        got = HighPass(shift, 2)(x.to(device), edges.to(device), on_device)
        assert got.device.type == device, name
        torch.testing.assert_close(got.cpu(), expected)


# ------------------------------------------------------------------ text and errors


def test_repr_is_the_call():
    assert str(HighPass()) == (
        "HighPass(shift='random_walk', hops=1, support_normalized=False, "
        "isolated='keep', cached=False)"
    )
    layer = HighPass(
        "symmetric", 2, support_normalized=True, isolated="zero", cached=True
    )
    assert str(eval(str(layer))) == str(layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": "sym"}, "got 'sym'"),
        ({"hops": 0}, "hops >= 1"),
        ({"hops": 1.0}, "hops >= 1"),
        ({"isolated": "drop"}, "got 'drop'"),
        ({"shift": "laplacian", "support_normalized": True}, "another shift"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        HighPass(**options)


@pytest.mark.parametrize("shift", SHIFTS)
def test_negative_and_nan_weights(shift):
    x, edges = torch.ones(2), path(2)
    signed = torch.tensor([-1.0, -1.0])
    adj = torch.sparse_coo_tensor(edges, signed, (2, 2))
    if shift == "adjacency":  # a prepared operator may be signed
        assert HighPass(shift)(x, edges, signed).tolist() == [2.0, 2.0]
        assert HighPass(shift)(x, adj).tolist() == [2.0, 2.0]
    else:
        with pytest.raises(ValueError, match="non-negative"):
            HighPass(shift)(x, edges, signed)
        with pytest.raises(ValueError, match="non-negative"):
            HighPass(shift)(x, adj)
    with pytest.raises(ValueError, match="finite edge weights"):
        HighPass(shift)(x, edges, signed * torch.nan)


def test_bad_signals_and_graphs():
    edges = path(2)
    adj = torch.sparse_coo_tensor(edges, torch.ones(2), (2, 2)).to_sparse_csr()
    with pytest.raises(TypeError, match=r"got torch.int64\); call .float"):
        HighPass()(torch.tensor([1, 2]), edges)
    with pytest.raises(TypeError, match=r"one tensor x \(got tuple"):
        HighPass()((torch.ones(2), torch.ones(2)), edges)
    with pytest.raises(ValueError, match=r"\(N,\) or \(N, C\) \(got \(1, 2, 3\)\)"):
        HighPass()(torch.ones(1, 2, 3), edges)
    with pytest.raises(ValueError, match="finite signal"):
        HighPass()(torch.tensor([1.0, torch.nan]), edges)
    with pytest.raises(ValueError, match="same nodes"):
        HighPass()(torch.ones(1), edges)
    with pytest.raises(ValueError, match=r"\(3, 3\) \(got \(2, 2\)\)"):
        HighPass()(torch.ones(3), adj)
    with pytest.raises(ValueError, match="no edge_weight"):
        HighPass()(torch.ones(2), adj, torch.ones(2))
    with pytest.raises(ValueError, match="constant sparse adj_t"):
        HighPass()(torch.ones(2), adj.clone().requires_grad_())
    with pytest.raises(ValueError, match="source_to_target"):
        HighPass(flow="target_to_source")(torch.ones(2), adj)
