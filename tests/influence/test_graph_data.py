"""Graphs that keep their edges otherwise, and more nodes asked for than there are."""

import warnings

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data, HeteroData

from captum_margin.influence import (
    ActiveLearning,
    SelectNodes,
    embed_nodes,
    select_nodes,
)


def graph(weighted=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 6, generator=generator)
    edge_index = torch.randint(30, (2, 90), generator=generator).unique(dim=1)
    data = Data(x=x, edge_index=edge_index)
    if weighted:
        data.edge_weight = 0.5 + torch.rand(edge_index.shape[1], generator=generator)
    return data


LAYOUTS = [torch.sparse_csr, torch.sparse_coo]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_transposed_adjacency_is_its_edges(layout, weighted):
    data = graph(weighted)
    attribute = "edge_weight" if weighted else None
    sparse = T.ToSparseTensor(attr=attribute, layout=layout)(data.clone())
    assert "edge_index" not in sparse
    for call in (
        lambda d: select_nodes(d, 5),
        lambda d: select_nodes(d, 5, paper=True),
        lambda d: ActiveLearning(d).self_influence(),
        lambda d: embed_nodes(d, epochs=5),
        lambda d: SelectNodes(5)(d).train_mask,
    ):
        torch.testing.assert_close(call(sparse), call(data))
    assert "edge_index" not in sparse


@pytest.mark.parametrize(
    "call", [lambda d: select_nodes(d, 2), embed_nodes, ActiveLearning, SelectNodes(2)]
)
def test_several_types_of_nodes(call):
    data = HeteroData()
    data["a"].x = torch.rand(3, 2)
    data["a", "to", "a"].edge_index = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(TypeError, match=r"got HeteroData\); .*\.to_homogeneous\(\)"):
        call(data)
    call(data.to_homogeneous())


@pytest.mark.parametrize("paper", [False, True])
def test_more_nodes_than_there_are(paper):
    data, options = graph(), {"paper": paper}
    with pytest.warns(UserWarning, match="31 nodes are asked for, .* only 30 can be"):
        found = select_nodes(data, 31, **options)
    assert found.sort().values.tolist() == list(range(30))
    with pytest.warns(UserWarning, match="3 nodes are asked for, .* only 2 can be"):
        found = select_nodes(data, 3, candidates=[4, 5, 6], labelled=[5], **options)
    assert set(found.tolist()) == {4, 6}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_nodes(data, 30, **options)
