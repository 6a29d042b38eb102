"""The choice of nodes as a transform: what it writes, and what it leaves alone."""

import copy
import pickle

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data, HeteroData

from captum_margin.influence import ActiveLearning, select_nodes
from captum_margin.influence.node_transform import SelectNodes


def graph():
    generator = torch.Generator().manual_seed(0)
    data = Data(
        x=torch.rand(30, 5, generator=generator),
        edge_index=torch.randint(30, (2, 60), generator=generator),
        y=torch.arange(30) % 3,
    )
    data.test_mask = torch.arange(30) >= 20
    data.train_mask = torch.ones(30, dtype=torch.bool)
    return data


@pytest.mark.parametrize("options", [{}, {"per_class": True}, {"reach": 1}])
def test_writes_scores_and_mask(options):
    data = graph()
    out = SelectNodes(4, **options)(data)
    chosen = select_nodes(data, 4, **options)
    assert out.train_mask.nonzero().flatten().tolist() == chosen.sort().values.tolist()
    assert not bool((out.train_mask & out.test_mask).any())
    rest = {key: value for key, value in options.items() if key != "per_class"}
    expected = ActiveLearning(data, **rest).self_influence()
    assert torch.equal(out.margin_score, expected) and out.margin_score.shape == (30,)
    # The graph that came in is as it was.
    assert "margin_score" not in data and bool(data.train_mask.all())
    assert torch.equal(out.x, data.x) and torch.equal(out.edge_index, data.edge_index)


@pytest.mark.parametrize("form", ["mask", "indices", "list"])
def test_labelled_nodes_are_in_the_mask_and_not_chosen_again(form):
    data = graph()
    first = select_nodes(data, 3)
    labelled = {
        "mask": torch.zeros(30, dtype=torch.bool).index_fill(0, first, True),
        "indices": first,
        "list": first.tolist(),
    }[form]
    second = select_nodes(data, 2, labelled=labelled)
    out = SelectNodes(2, labelled=labelled)(data)
    found = set(out.train_mask.nonzero().flatten().tolist())
    assert found == {*first.tolist(), *second.tolist()} and len(found) == 5


def test_nothing_labelled_yet_is_no_label():
    assert int(SelectNodes(2, labelled=[])(graph()).train_mask.sum()) == 2


def test_in_a_composition():
    pool = torch.tensor([1, 2, 3, 4])
    steps = T.Compose([T.ToUndirected(), T.NormalizeFeatures(), SelectNodes(9)])
    assert int(steps(graph()).train_mask.sum()) == 9
    few = SelectNodes(9, candidates=pool)
    for transform in (few, copy.deepcopy(few), pickle.loads(pickle.dumps(few))):
        assert torch.equal(transform(graph()).train_mask.nonzero().flatten(), pool)


def test_repr_and_errors():
    assert str(SelectNodes(20)) == "SelectNodes(budget=20)"
    with pytest.raises(TypeError, match=r"got HeteroData\); .*to_homogeneous"):
        SelectNodes(2)(HeteroData())
    with pytest.raises(TypeError, match="unknown options"):
        SelectNodes(2, colour="red")(graph())
    with pytest.raises(ValueError, match="budget >= 0"):
        SelectNodes(-1)(graph())
