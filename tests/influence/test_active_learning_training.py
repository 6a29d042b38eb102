"""The benchmark's batched networks against PyTorch Geometric's, one at a time."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import erdos_renyi_graph

from tests.benchmarks.active_learning import training
from tests.benchmarks.active_learning.training import accuracies, trained_logits

EPOCHS, HIDDEN = 12, 5
SELECTIONS = [torch.tensor([3, 17, 30]), torch.tensor([5]), torch.tensor([38, 0, 9, 2])]
SEEDS = [4, 0, 7]


def small_graph() -> Data:
    """A sparse random graph of 40 nodes in 3 classes; the last node is isolated."""
    torch.manual_seed(0)
    edges = erdos_renyi_graph(39, 0.06)
    x = (torch.rand(40, 11) < 0.3).double() * torch.rand(40, 11).double()
    data = Data(x=x, edge_index=edges, y=torch.arange(40) % 3, num_nodes=40)
    data.test_mask = torch.arange(40) >= 20
    return data


def reference(data: Data, labelled: Tensor, seed: int, layers: int) -> Tensor:
    """Logits of PyTorch Geometric's network from the same initial weights."""
    sizes = [11, *[HIDDEN] * (layers - 1), 3]
    convs = [GCNConv(a, b).double() for a, b in itertools.pairwise(sizes)]
    for conv, weight in zip(convs, training.initial_weights(sizes, seed), strict=True):
        conv.lin.weight.data = weight.double().T.contiguous()
    groups = [{"params": convs[0].parameters(), "weight_decay": 0.02}]
    groups += [{"params": conv.parameters(), "weight_decay": 0.0} for conv in convs[1:]]
    optimizer = torch.optim.Adam(groups, lr=0.05)

    def forward() -> Tensor:
        out = convs[0](data.x, data.edge_index)
        for conv in convs[1:]:
            out = conv(out.relu(), data.edge_index)
        return out

    for _ in range(EPOCHS):
        optimizer.zero_grad()
        out = forward()
        torch.nn.functional.cross_entropy(out[labelled], data.y[labelled]).backward()
        optimizer.step()
    return forward().detach()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_networks_equal_those_of_pytorch_geometric(layers):
    data = small_graph()
    options = {"hidden": HIDDEN, "epochs": EPOCHS, "lr": 0.05, "weight_decay": 0.02}
    batches = trained_logits(
        data, SELECTIONS, SEEDS, layers=layers, dropout=False, batch=2, **options
    )
    for logits, labelled, seed in zip(
        torch.cat(list(batches)), SELECTIONS, SEEDS, strict=True
    ):
        expected = reference(data, labelled, seed, layers)
        torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-9)


def test_dropout_drops_half_of_features_and_hidden_units_and_doubles_the_rest():
    graph = training.graph_of(small_graph())
    networks = training.Batch(graph, SELECTIONS, SEEDS, 3, HIDDEN)
    kept, hidden = [], []
    for _ in range(4000):
        hidden.append(networks.drop())
        kept.append(networks.features.data / networks.kept_features)
    shares = torch.from_numpy(np.array(kept))
    assert set(shares.unique().tolist()) == {0.0, 2.0}
    # 4000 coins: a standard error of 0.016, and correlations of 0.016.
    assert (shares.mean(0) - 1).abs().max() < 0.08
    assert (torch.corrcoef(shares.T) - torch.eye(shares.shape[1])).abs().max() < 0.09
    for layer in range(2):
        masks = torch.stack([m[layer] for m in hidden])
        for model, block in enumerate(networks.blocks):
            rows = block.shifts[layer].shape[0]
            assert (masks[:, model, :rows].mean(0) - 1).abs().max() < 0.08
            assert masks[:, model, rows:].abs().sum() == 0


def test_dropout_enters_training_as_the_masks_say(monkeypatch):
    # With every coin a head, inputs of each layer are doubled and nothing is dropped.

    class Heads:
        def bytes(self, length: int) -> bytes:
            return b"\xff" * length

    data = small_graph()
    monkeypatch.setattr(training.np.random, "default_rng", lambda seed: Heads())
    networks = training.Batch(training.graph_of(data), SELECTIONS, SEEDS, 3, HIDDEN)
    doubled = networks.forward(networks.drop())
    x, (a, b, c) = 2 * data.x, [w.detach() for w in networks.weights]
    shift = torch.from_numpy(networks.graph.shift.toarray())
    for i, labelled in enumerate(SELECTIONS):
        out = (
            shift @ (2 * (shift @ (2 * (shift @ x @ a[i]).relu() @ b[i])).relu()) @ c[i]
        )
        expected = out[labelled]
        torch.testing.assert_close(doubled[i, : len(labelled)], expected)


def test_a_result_depends_on_its_selection_and_seed_only():
    data = small_graph()
    together = torch.cat(list(trained_logits(data, SELECTIONS, SEEDS, epochs=5)))
    for i in range(3):
        alone = next(
            trained_logits(data, SELECTIONS[i : i + 1], SEEDS[i : i + 1], epochs=5)
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-8, atol=1e-10)
    other = next(trained_logits(data, SELECTIONS[:1], [5], epochs=5))
    assert (other[0] - together[0]).abs().max() > 1e-3


def test_accuracy_counts_hits_among_the_test_nodes():
    data = small_graph()
    found = accuracies(data, SELECTIONS, SEEDS, epochs=3)
    logits = torch.cat(list(trained_logits(data, SELECTIONS, SEEDS, epochs=3)))
    hits = logits.argmax(-1)[:, 20:] == data.y[20:]
    assert found.tolist() == (hits.sum(-1).double() / 20).tolist()
