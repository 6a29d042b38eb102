"""Options that count something, of every entry point: whole numbers, or words."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from torch_geometric.data import Data

from captum_margin import metrics, neighbors, signal
from captum_margin.attr import (
    RepresentativeInterpretation,
    feature_coalitions,
    slic_segments,
)
from captum_margin.influence import (
    LabelNoise,
    Prototypes,
    embed_nodes,
    select_nodes,
)
from tests.any_input.oracle import answer_of, assert_alike
from tests.any_input.test_attributions import ANY, NET, SHAPES, SIZE, whole

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0.5).long()
NOISE = LabelNoise.from_features(X, Y, k=5)
PROTOTYPES = Prototypes.from_features(X, Y, k=5)
EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
PATH = torch.stack([torch.arange(59), torch.arange(1, 60)])
BOTH_WAYS = torch.cat([PATH, PATH.flip(0)], dim=1)
GRAPH = Data(x=X[:4], edge_index=EDGES)
IMAGES = whole(SHAPES["images"])
MAPS = whole((3, 1, SIZE, SIZE), 1)
REFERENCES = whole((20, 3, SIZE, SIZE), 5)
LABELLED = TensorDataset(REFERENCES, torch.arange(20) % 2)


def influence(**options):
    return LabelNoise.from_features(X, Y, **options).self_influence()


def insertion(**options):
    return metrics.insertion_deletion(ANY, IMAGES, MAPS, 1, **options).insertion_auc


def region(**options):
    return metrics.smallest_region(ANY, IMAGES, MAPS, 1, **options).verified


def fitted(**options):
    explainer = RepresentativeInterpretation(NET, NET[0])
    return explainer.fit(REFERENCES, **options).attribute(IMAGES, target=1)


def of_model(**options):
    return LabelNoise(NET, LABELLED, NET[0], k=3, **options).self_influence()


COUNTS = {
    "neighbours": ("k", lambda v: influence(k=v)),
    "hops": ("hops", lambda v: influence(hops=v)),
    "most influential": ("k", lambda v: NOISE.influence(k=v)[1]),
    "prototypes": ("n", lambda v: PROTOTYPES.select(v)),
    "criticisms": ("n", lambda v: PROTOTYPES.criticisms(v)),
    "found neighbours": ("k", lambda v: neighbors.find_neighbors(X, v).distances),
    "graph": ("k", lambda v: signal.knn_graph(X, v)[0]),
    "filter": ("hops", lambda v: signal.HighPass(hops=v)(X[:4], EDGES)),
    "chosen": ("n", lambda v: signal.select_prototypes(X, BOTH_WAYS, v)),
    "covering": ("n", lambda v: signal.select_covering(X, v)),
    "diverse": ("n", lambda v: signal.select_diverse(X[:, 0], BOTH_WAYS, v)),
    "top": ("n", lambda v: signal.top(X[:, 0], v)),
    "steps of curves": ("n_steps", lambda v: insertion(n_steps=v)),
    "copies": ("perturbations_per_eval", lambda v: insertion(perturbations_per_eval=v)),
    "steps of regions": ("n_steps", lambda v: region(n_steps=v)),
    "boundaries": ("n_boundaries", lambda v: fitted(n_boundaries=v)),
    "seed of boundaries": ("seed", lambda v: fitted(n_boundaries=4, seed=v)),
    "segments": ("n_segments", lambda v: slic_segments(IMAGES[0], v)),
    "batch": ("batch_size", lambda v: of_model(batch_size=v)),
    "nodes": ("budget", lambda v: select_nodes(GRAPH, v)),
    "epochs": ("epochs", lambda v: embed_nodes(GRAPH, epochs=v)),
    "seed of nodes": ("seed", lambda v: embed_nodes(GRAPH, epochs=2, seed=v)),
    "coalitions": (
        "n_coalitions",
        lambda v: feature_coalitions(NET, IMAGES[:1], n_coalitions=v),
    ),
}
# Alike on all samples; None is left out, which is some defaults.
NO_COUNTS = {
    "a fraction": 4.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "text": "4",
    "a list of text": ["4"],
    "a dict": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COUNTS)
def test_numpys_numbers_are_numbers(name):
    option, call = COUNTS[name]
    assert_alike(answer_of(lambda: call(np.int64(4)), option, refusable=False), call(4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", NO_COUNTS.values(), ids=NO_COUNTS)
@pytest.mark.parametrize("name", COUNTS)
def test_what_counts_nothing_is_refused_by_name(name, value):
    option, call = COUNTS[name]
    assert answer_of(lambda: call(value), rf"\b{option}\b") is None
