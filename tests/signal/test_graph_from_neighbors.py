"""The graph of neighbours that were found elsewhere."""

import pytest
import torch

from captum_margin.signal import graph_from_neighbors, knn_graph


def test_the_graph_of_listed_neighbours():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double()
    square = torch.cdist(x, x).fill_diagonal_(torch.inf)
    distances, indices = square.sort(dim=1, stable=True)
    found = (indices[:, :4].clone(), distances[:, :4].clone())
    edges, weight = graph_from_neighbors(*found)
    assert torch.equal(edges, knn_graph(x, 4)[0]) and bool((weight == 1).all())
    edges, weight = graph_from_neighbors(
        indices[:, :4], distances[:, :4], weight="gaussian"
    )
    torch.testing.assert_close(weight, knn_graph(x, 4, weight="gaussian")[1])
    assert weight.dtype == torch.float64


def test_the_graph_of_incomplete_lists():
    indices = torch.tensor([[1, -1], [1, -1], [-1, -1], [1, 0]])
    distances = torch.tensor([[2.0, torch.inf], [0.0, 9.0], [9.0, 9.0], [4.0, 3.0]])
    edges, weight = graph_from_neighbors(
        indices, distances, weight="gaussian", bandwidth=2.0
    )
    # -1 and the row itself are no neighbours.
    assert edges.tolist() == [[1, 3, 0, 3, 0, 1], [0, 0, 1, 1, 3, 3]]
    lengths = torch.tensor([2.0, 3.0, 2.0, 4.0, 3.0, 4.0])
    torch.testing.assert_close(weight, torch.exp(-(lengths**2) / 8))
    # Where both list each other at two distances the shorter one counts.
    two = graph_from_neighbors(
        torch.tensor([[1], [0]]),
        torch.tensor([[1.0], [2.0]]),
        weight="gaussian",
        bandwidth=1.0,
    )
    torch.testing.assert_close(two[1], torch.full((2,), -0.5).exp())
    with pytest.raises(ValueError, match="of one shape"):
        graph_from_neighbors(indices, distances[:3])
    with pytest.raises(ValueError, match="expected node indices"):
        graph_from_neighbors(indices + 3, distances)
    with pytest.raises(ValueError, match="expected finite"):
        graph_from_neighbors(indices, distances * torch.inf)
    with pytest.raises(ValueError, match="expected non-negative"):
        graph_from_neighbors(indices, -distances)
    with pytest.raises(TypeError, match="expected edge_index"):
        graph_from_neighbors(indices.float(), distances)
