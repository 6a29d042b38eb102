"""The three published forms of the filter, in every question that has ``paper=``."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_adj

from captum_margin.influence import (
    ActiveLearning,
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    MarginInfluence,
    Prototypes,
    SelectNodes,
)
from tests.influence.test_scores import blobs
from tests.reference import margin_listings as reference

LISTINGS = {
    "arxiv": reference.listing_arxiv,
    "journal": reference.listing_journal,
}
QUESTIONS = [LabelNoise, DecisionBoundary, Prototypes, AdversarialStatistics]


def algorithm(weights, f):
    """Algorithm 1 with the shift of the listings, scaled as these are."""
    return np.abs(reference.high_pass(weights, f, "symmetric"))


def scaled(scores):
    """The root of the energy, its maximum 1, as the listings return it."""
    magnitude = scores.sqrt()
    return (magnitude / magnitude.max()).numpy()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("form", LISTINGS)
@pytest.mark.parametrize("hops", [1, 2])
def test_a_listing_is_what_its_form_computes(question, form, hops):
    x, labels = blobs(15, spread=1.5)
    asked = question.from_features(x, labels, paper=form, hops=hops)
    result = asked.result()
    weights = to_dense_adj(result.graph.edge_index)[0].double().numpy()
    expected = LISTINGS[form](weights, result.function.double().numpy(), hops)
    # Functions of float32 are filtered in it.
    np.testing.assert_allclose(scaled(result.scores.double()), expected, atol=2e-5)


@pytest.mark.parametrize("question", QUESTIONS)
def test_true_is_algorithm_1(question):
    x, labels = blobs(15, spread=1.5)
    scores = question.from_features(x, labels, paper=True).self_influence()
    named = question.from_features(x, labels, paper="algorithm").self_influence()
    assert torch.equal(scores, named)
    result = question.from_features(x, labels, paper=True).result()
    weights = to_dense_adj(result.graph.edge_index)[0].double().numpy()
    energy = algorithm(weights, result.function.double().numpy())
    np.testing.assert_allclose(
        scaled(scores.double()), energy / energy.max(), atol=2e-5
    )


@pytest.mark.parametrize("form", ["algorithm", *LISTINGS])
def test_prototypes_are_chosen_by_the_form(form):
    x, _ = blobs(30, spread=1.5)
    asked = Prototypes.from_features(x, paper=form, share=0.2)
    result = asked.result()
    weights = to_dense_adj(result.graph.edge_index)[0].double().numpy()
    f = result.function.numpy()
    energy = {"algorithm": algorithm, **LISTINGS}[form](weights, f)
    low = np.argsort(energy, kind="stable")[: round(0.2 * len(f))]
    expected = low[np.argsort(-f[low], kind="stable")]
    assert asked.select(len(x)).tolist() == expected.tolist()
    assert asked.criticisms(1).item() == energy.argmax()


@pytest.mark.parametrize("form", LISTINGS)
def test_nodes_are_chosen_by_the_form(form):
    generator = torch.Generator().manual_seed(0)
    upper = torch.triu(torch.rand(30, 30, generator=generator) < 0.2, diagonal=1)
    upper[range(29), range(1, 30)] = True  # nobody is alone
    edges = (upper | upper.T).nonzero().T
    z = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    data = Data(edge_index=edges, num_nodes=30)
    learning = ActiveLearning(data, embeddings=z, paper=form)
    weights = to_dense_adj(edges)[0].double().numpy()
    expected = LISTINGS[form](weights, z.norm(dim=1).numpy())
    np.testing.assert_allclose(scaled(learning.self_influence()), expected, rtol=1e-9)
    best = np.argsort(-expected, kind="stable")[:4].tolist()
    assert learning.select(4).tolist() == best
    found = SelectNodes(4, embeddings=z, paper=form)(data).train_mask.nonzero()
    assert set(found.flatten().tolist()) == set(best)


def test_a_constant_tells_the_forms_apart():
    """Of a ring's constant 1: nothing, 1 - 1/2, and (1 - 1/2) / 2."""
    ring = torch.tensor([[*range(6), *range(1, 6), 0], [*range(1, 6), 0, *range(6)]])
    data = Data(edge_index=ring, num_nodes=6)
    found = {
        form: ActiveLearning(data, function=torch.ones(6), paper=form).self_influence()
        for form in ("algorithm", "arxiv", "journal")
    }
    for form, expected in (("algorithm", 0), ("arxiv", 1 / 4), ("journal", 1 / 16)):
        torch.testing.assert_close(found[form], torch.full((6,), float(expected)))


@pytest.mark.parametrize("form", LISTINGS)
def test_new_data_is_asked_in_the_same_form(form):
    x, labels = blobs(15, spread=1.5)
    asked = LabelNoise.from_features(x, labels, paper=form)
    assert torch.equal(asked.self_influence((x, labels)), asked.self_influence())


@pytest.mark.parametrize("paper", ["arXiv", "listing", 1.5, ""])
def test_an_unknown_form_is_refused(paper):
    x, labels = blobs(5)
    with pytest.raises(ValueError, match="'algorithm', 'arxiv', 'journal'"):
        LabelNoise.from_features(x, labels, paper=paper)
    with pytest.raises(ValueError, match="'algorithm', 'arxiv', 'journal'"):
        SelectNodes(2, paper=paper)
    with pytest.raises(ValueError, match="'algorithm', 'arxiv', 'journal'"):
        MarginInfluence.from_features(x, function=x[:, 0], paper=paper)
