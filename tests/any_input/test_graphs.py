"""Nodes of a graph in any dress: the plain choice and filter, or words."""

from types import SimpleNamespace

import numpy as np
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data, HeteroData

from captum_margin.influence import LabelNoise, select_nodes
from captum_margin.signal import HighPass, as_undirected
from tests.any_input.disguises import SAME, SPOILT
from tests.any_input.oracle import answer_of, assert_alike, examples
from tests.any_input.test_attributions import NUMBERS

N = 12


def graph():
    """Two rings of six nodes, joined once; features of each their own."""
    ring = torch.arange(6)
    edges = torch.stack([ring, (ring + 1) % 6])
    edges = torch.cat([edges, edges + 6, torch.tensor([[0], [6]])], dim=1)
    edge_index = torch.cat([edges, edges.flip(0)], dim=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 40, (N, 5), generator=generator).float()
    x[6:, 0] += 50
    return edge_index, x


EDGES, X = graph()
PLAIN = select_nodes(Data(x=X, edge_index=EDGES), 4)


def csr():
    ones = torch.ones(EDGES.shape[1])
    return torch.sparse_coo_tensor(EDGES, ones, (N, N)).coalesce().to_sparse_csr()


def in_adj_t():
    return Data(x=X, adj_t=csr())


def hetero():
    data = HeteroData()
    data["paper"].x = X
    data["paper", "cites", "paper"].edge_index = EDGES
    return data


GRAPHS = {
    "once": lambda: Data(x=X, edge_index=EDGES[:, : EDGES.shape[1] // 2]),
    "twice": lambda: Data(x=X, edge_index=EDGES.repeat(1, 2)),
    "with loops": lambda: Data(
        x=X, edge_index=torch.cat([EDGES, torch.arange(N).repeat(2, 1)], dim=1)
    ),
    "backwards": lambda: Data(x=X, edge_index=EDGES.flip(1)),
    "int32": lambda: Data(x=X, edge_index=EDGES.int()),
    "array": lambda: Data(x=X, edge_index=EDGES.numpy()),
    "list": lambda: Data(x=X, edge_index=EDGES.tolist()),
    "floats": lambda: Data(x=X, edge_index=EDGES.float()),
    "transposed": lambda: Data(x=X, edge_index=EDGES.T),
    "transposed in memory": lambda: Data(x=X, edge_index=EDGES.T.contiguous().T),
    "adj_t": in_adj_t,
    "edge_index of csr": lambda: Data(x=X, edge_index=csr()),
    "heterogeneous": hetero,
    "namespace": lambda: SimpleNamespace(x=X, edge_index=EDGES),
    "dict": lambda: {"x": X, "edge_index": EDGES},
    "edges alone": lambda: EDGES,
    "SciPy's": lambda: scipy.sparse.coo_matrix((np.ones(len(EDGES[0])), EDGES.numpy())),
    "list of one": lambda: [Data(x=X, edge_index=EDGES)],
    "None": lambda: None,
    "no edges attribute": lambda: Data(x=X),
    "out of range": lambda: Data(x=X, edge_index=EDGES + 1),
    "negative": lambda: Data(x=X, edge_index=EDGES - 1),
    "too few nodes": lambda: Data(x=X, edge_index=EDGES, num_nodes=5),
    "too many rows": lambda: Data(x=torch.cat([X, X]), edge_index=EDGES, num_nodes=N),
    "NaN in weights": lambda: Data(
        x=X, edge_index=EDGES, edge_weight=torch.full((len(EDGES[0]),), float("nan"))
    ),
    "negative weights": lambda: Data(
        x=X, edge_index=EDGES, edge_weight=-torch.ones(len(EDGES[0]))
    ),
    "weights of one": lambda: Data(
        x=X, edge_index=EDGES, edge_weight=torch.ones(len(EDGES[0]))
    ),
    "integer weights": lambda: Data(
        x=X, edge_index=EDGES, edge_weight=torch.ones(len(EDGES[0])).long()
    ),
    "column of weights": lambda: Data(
        x=X, edge_index=EDGES, edge_weight=torch.ones(len(EDGES[0]), 1)
    ),
    "too few weights": lambda: Data(x=X, edge_index=EDGES, edge_weight=torch.ones(3)),
}
WORDS = "edge|graph|Data|node|features|adj_t"


@given(st.sampled_from(sorted(GRAPHS)))
@examples(40)
def test_graphs_in_any_dress(dress):
    found = answer_of(lambda: select_nodes(GRAPHS[dress](), 4), WORDS)
    if found is not None:
        assert torch.equal(found, PLAIN)


@given(st.sampled_from(sorted(SAME | SPOILT)))
@examples(40)
def test_features_of_nodes_in_any_dress(dress):
    x = (SAME | SPOILT)[dress](X)
    if x is None or dress == "empty":  # a graph without features
        return
    found = answer_of(lambda: select_nodes(Data(x=x, edge_index=EDGES), 4), "features")
    if found is not None:
        assert dress not in SPOILT
        assert torch.equal(found, PLAIN)


@given(st.sampled_from(sorted(NUMBERS)))
@examples(20)
def test_budgets(dress):
    data = Data(x=X, edge_index=EDGES)
    found = answer_of(lambda: select_nodes(data, NUMBERS[dress]), "budget|nodes")
    if found is not None:
        expected = {"zero": 0, "True": 1}.get(dress, N)
        assert found.tolist() == select_nodes(data, expected).tolist()


CHOICES = {
    "list": lambda i: i,
    "tuple": tuple,
    "set": set,
    "range": lambda i: range(i[0], i[-1] + 1),
    "array": lambda i: np.array(i),
    "int32": lambda i: torch.tensor(i).int(),
    "uint8": lambda i: torch.tensor(i).to(torch.uint8),
    "floats": lambda i: torch.tensor(i).float(),
    "mask": lambda i: torch.zeros(N).bool().index_fill(0, torch.tensor(i), True),
    "mask of numbers": lambda i: (
        torch.zeros(N).index_fill(0, torch.tensor(i), 1).long()
    ),
    "mask in a list": lambda i: [n in i for n in range(N)],
    "mask array": lambda i: np.isin(np.arange(N), i),
    "short mask": lambda i: torch.ones(3).bool(),
    "twice": lambda i: i + i,
    "reversed": lambda i: i[::-1],
    "too high": lambda i: [*i, N],
    "negative": lambda i: [*i, -1],
    "none": lambda i: [],
    "text": lambda i: "train_mask",
    "fractions": lambda i: [v + 0.5 for v in i],
    "nested": lambda i: [i],
}


@given(st.sampled_from(["candidates", "labelled"]), st.sampled_from(sorted(CHOICES)))
@examples(40)
def test_choices_of_nodes(name, dress):
    data, chosen = Data(x=X, edge_index=EDGES), [3, 4, 5, 6, 7]
    given = {name: CHOICES[dress](chosen)}
    found = answer_of(lambda: select_nodes(data, 3, **given), name)
    if found is None or dress == "none":
        return
    if dress == "mask of numbers":
        # Zeros and ones are node numbers where a mask is not said to be one.
        chosen = [0, 1]
    assert torch.equal(found, select_nodes(data, 3, **{name: chosen}))


PLAIN_FILTERED = HighPass()(X, EDGES)


@given(st.sampled_from(sorted(SAME | SPOILT)))
@examples(30)
def test_filtered_functions(dress):
    found = answer_of(
        lambda: HighPass()((SAME | SPOILT)[dress](X), EDGES), "function|signal|x |shape"
    )
    if found is not None:
        assert dress not in SPOILT
        assert_alike(found, PLAIN_FILTERED, 0.02)


@given(st.sampled_from(sorted(GRAPHS)))
@examples(30)
def test_graphs_of_samples(dress):
    """The same graphs, where neighbours are given instead of features."""
    given = GRAPHS[dress]()
    edges = getattr(given, "edge_index", given)
    labels = (torch.arange(N) >= 6).long()
    labels[2] = 1

    def ask(graph):
        return LabelNoise.from_graph(graph, labels, bandwidth=None).self_influence()

    found = answer_of(lambda: ask(edges), "[Gg]raph|edge|node|label|distances")
    if found is not None and dress not in ("with loops", "too few nodes"):
        assert_alike(found, ask(as_undirected(EDGES)), 1e-5)
