"""Prototypes and criticisms: the loss, its local minimum, planted clusters, ends."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import (
    HighPass,
    influence,
    knn_graph,
    leave_neighborhood_out_mmd,
    select_criticisms,
    select_prototypes,
    top,
)
from captum_margin.signal import _cells as cells_of
from captum_margin.signal._seeds import class_shares, spread_seeds
from tests.reference import margin_listings
from tests.reference import mmd_reference as reference

NO_EDGES = torch.empty(2, 0, dtype=torch.long)
DATA = os.environ.get("CAPTUM_MARGIN_DATA")


def sample(seed, n=40, width=3, k=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    labels = (x[:, 0] + torch.randn(n, generator=generator) / 2 > 0).long()
    return x, knn_graph(x, k)[0], labels


def loss(x, prototypes, labels):
    labels = None if labels is None else labels.numpy()
    return reference.cell_loss(x.numpy(), prototypes.tolist(), labels)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), local=st.booleans())
def test_the_loss_falls_with_every_sweep(seed, n, local):
    x, edges, labels = sample(seed)
    given_ = labels if local and len(labels.unique()) > 1 else None
    losses = [
        loss(x, select_prototypes(x, edges, n, labels=given_, sweeps=s), given_)
        for s in range(6)
    ]
    for before, after in itertools.pairwise(losses):
        assert after <= before + 1e-9


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_move_along_an_edge_within_a_cell_is_left(seed, local):
    """The end is a local minimum, by brute force over all moves."""
    x, edges, labels = sample(seed)
    given_ = labels if local else None
    chosen = select_prototypes(x, edges, 6, labels=given_, sweeps=200)
    reached = loss(x, chosen, given_)
    started = loss(x, select_prototypes(x, edges, 6, labels=given_, sweeps=0), given_)
    assert reached <= started
    points, picks = x.numpy(), chosen.tolist()
    for source, target in edges.T.tolist():
        if target not in picks or source in picks:
            continue
        if local and labels[source] != labels[target]:
            continue
        same = [p for p in picks if not local or labels[p] == labels[source]]
        nearest = min(same, key=lambda p: ((points[p] - points[source]) ** 2).sum())
        if nearest == target:
            moved = torch.tensor([source if p == target else p for p in picks])
            assert loss(x, moved, given_) > reached - 1e-9


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("local", [False, True])
def test_the_gain_of_a_move_is_what_the_loss_falls_by(local, block_size):
    x, _, labels = sample(6, n=30)
    labels = labels if local else torch.zeros_like(labels)
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    far = float((4 * norms.max().sqrt() + 1).square())
    samples = cells_of.Samples(x, norms, labels, local, far, block_size)
    prototypes = torch.cat([(labels == c).nonzero()[:3, 0] for c in labels.unique()])
    cells = cells_of.nearest_prototypes(samples, prototypes)
    pairs = [
        (node, slot)
        for slot, p in enumerate(prototypes.tolist())
        for node in range(30)
        if node not in prototypes and labels[node] == labels[p]
    ]
    node, slot = torch.tensor(pairs).T
    gain = cells_of._gains(samples, cells, prototypes, node, slot)
    given_ = labels if local else None
    before = loss(x, prototypes, given_)
    for value, t, s in zip(gain.tolist(), node, slot, strict=True):
        moved = prototypes.clone()
        moved[s] = t
        assert value == pytest.approx(before - loss(x, moved, given_), abs=1e-9)


@pytest.mark.parametrize("local", [False, True])
def test_planted_clusters_get_a_prototype_each(local):
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(5, dtype=torch.float64)
    cluster = torch.arange(5).repeat_interleave(torch.tensor([60, 10, 30, 15, 40]))
    x = centres[cluster]
    x = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    edges, _ = knn_graph(x, 5)
    labels = cluster if local else None
    chosen = select_prototypes(x, edges, 5, labels=labels, sweeps=50)
    # The most represented first: the clusters by size.
    assert cluster[chosen].tolist() == [0, 4, 2, 3, 1]
    if not local:  # the medoid of each, from the definition
        for c in range(5):
            members = x[cluster == c].numpy()
            spread = ((members[:, None] - members) ** 2).sum(axis=(1, 2))
            mine = x[chosen[cluster[chosen] == c]].numpy()
            value = ((mine - members) ** 2).sum()
            assert value <= np.sort(spread)[1]


def test_labels_draw_prototypes_to_the_boundary_they_need():
    """Two classes on a line with an island: every class is stood for."""
    x = torch.cat([torch.linspace(0, 1, 50), torch.linspace(4, 5, 50)])[:, None]
    labels = torch.zeros(100, dtype=torch.long)
    labels[20:30] = 1
    edges, _ = knn_graph(x, 4)
    chosen = select_prototypes(x, edges, 6, labels=labels)
    assert labels[chosen].bincount().tolist() == [3, 3]
    assert set(labels[chosen[labels[chosen] == 1]].tolist()) == {1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 40))
def test_shares_of_classes(sizes, n):
    shares = class_shares(torch.tensor(sizes), n)
    assert sum(shares) == min(n, sum(sizes))
    # Equal, but for full classes and a remainder of one.
    level = max(shares)
    for share, size in zip(shares, sizes, strict=True):
        assert share <= size
        assert share == size or share >= level - 1


def test_ends():
    x, edges, labels = sample(0)
    for given_ in (None, labels):
        options = {"labels": given_}
        assert select_prototypes(x, edges, 0, **options).shape == (0,)
        for n in (40, 99):
            everything = select_prototypes(x, edges, n, **options)
            assert sorted(everything.tolist()) == list(range(40))
        for n in (1, 2, 17, 39):
            chosen = select_prototypes(x, edges, n, **options)
            assert len(set(chosen.tolist())) == n
    one = select_prototypes(x[:1], NO_EDGES, 1)
    assert one.tolist() == [0]
    classes = torch.arange(40)  # a class each, fewer prototypes than classes
    assert len(set(select_prototypes(x, edges, 5, labels=classes).tolist())) == 5


def test_one_class_is_no_class():
    x, edges, labels = sample(1)
    alike = torch.full_like(labels, 7)
    assert torch.equal(
        select_prototypes(x, edges, 5, labels=alike), select_prototypes(x, edges, 5)
    )


@pytest.mark.parametrize("local", [False, True])
def test_duplicates_and_constant_features(local):
    x = torch.zeros(12, 2)
    x[:3] = 1.0
    labels = (torch.arange(12) % 2) if local else None
    edges, _ = knn_graph(x, 3)
    for n in (1, 4, 11):
        assert select_prototypes(x, edges, n, labels=labels).unique().numel() == n
    two = select_prototypes(x, edges, 2)
    assert sorted(x[two, 0].tolist()) == [0, 1]


def test_seeds_are_the_medoids_of_planted_clusters():
    """Three points each, the middle one the mean: what k-means must end at."""
    centres = torch.tensor([0.0, 10.0, 30.0, 70.0, 90.0, 200.0])
    x = (centres[:, None] + torch.tensor([-1.0, 0.0, 1.0])).reshape(-1, 1)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        chosen = spread_seeds(x, 6, generator, None)
        assert sorted(chosen.tolist()) == [1, 4, 7, 10, 13, 16]


@pytest.mark.filterwarnings("error")
def test_seeds_of_duplicates_are_different_samples_and_quiet():
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([0.0, 1.0]).repeat_interleave(6)[:, None]
    for n in (1, 2, 3, 7, 11, 12):  # more clusters than points: most stay empty
        chosen = spread_seeds(x, n, generator, None)
        assert chosen.unique().numel() == n
        assert x[chosen].unique().numel() == min(n, 2)
    constant = spread_seeds(torch.ones(5, 3), 4, generator, None)
    assert constant.unique().numel() == 4


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_dtypes_and_a_class_of_one(dtype):
    """Values that every dtype holds exactly: the choice is that of float32."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 2, (30, 6), generator=generator).float()
    labels = torch.arange(30) % 3
    labels[7] = 9
    edges, _ = knn_graph(x, 4)
    expected = select_prototypes(x, edges, 8, labels=labels)
    assert 7 in expected.tolist()
    chosen = select_prototypes(x.to(dtype), edges, 8, labels=labels)
    assert torch.equal(chosen, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("local", [False, True])
def test_on_a_gpu(local):
    x, edges, labels = sample(7, n=200)
    given_ = labels if local else None
    expected = select_prototypes(x, edges, 12, labels=given_)
    there = None if given_ is None else given_.cuda()
    chosen = select_prototypes(x.cuda(), edges.cuda(), 12, labels=there)
    assert chosen.is_cuda
    assert torch.equal(chosen.cpu(), expected)


@pytest.mark.parametrize("local", [False, True])
def test_blocks_seeds_and_names_of_classes(local):
    x, edges, labels = sample(2, n=120)
    given_ = labels if local else None
    expected = select_prototypes(x, edges, 9, labels=given_)
    again = select_prototypes(x.clone(), edges, 9, labels=given_, block_size=7)
    assert torch.equal(again, expected)
    if local:
        assert torch.equal(select_prototypes(x, edges, 9, labels=labels - 5), expected)
    several = {
        tuple(select_prototypes(x, edges, 9, labels=given_, sweeps=0, seed=s).tolist())
        for s in range(5)
    }
    assert len(several) > 1
    for dtype in (torch.float32, torch.bfloat16):
        chosen = select_prototypes(x.to(dtype), edges, 9, labels=given_)
        assert chosen.unique().numel() == 9


@pytest.mark.parametrize("local", [False, True])
def test_the_papers_rule_equals_its_steps(local):
    x, edges, labels = sample(3)
    given_ = labels if local else None
    neighbours = [set() for _ in x]
    weights = np.zeros((40, 40))
    for source, target in edges.T.tolist():
        neighbours[target].add(source)
        weights[target, source] = 1
    f = reference.leave_neighborhood_out_mmd(
        x.numpy(), neighbours, 0.3, labels.numpy() if local else None, paper=True
    )
    score = margin_listings.high_pass(weights, f, "symmetric") ** 2
    low = np.argsort(score, kind="stable")[:10].tolist()
    low.sort(key=lambda i: -f[i])
    if local:
        turns = {
            i: sum(labels[j] == labels[i] for j in low[:t]) for t, i in enumerate(low)
        }
        low.sort(key=turns.get)
    got = select_prototypes(
        x, edges, 8, labels=given_, rule="paper", gamma=0.3, share=0.25
    )
    assert got.tolist() == low[:8]


@pytest.mark.parametrize("local", [False, True])
def test_criticisms_are_of_high_influence(local):
    x, edges, labels = sample(4)
    x[7] = 6.0
    given_ = labels if local else None
    f = leave_neighborhood_out_mmd(x, edges, labels=given_)
    expected = top(influence(HighPass()(f, edges), "above"), 5)
    assert torch.equal(select_criticisms(x, edges, 5, labels=given_), expected)
    if not local:
        assert expected[0] == 7
        edges_now, _ = knn_graph(x, 4)
        assert 7 in select_criticisms(x, edges_now, 2, estimate="features").tolist()


def test_bad_arguments():
    x, edges, labels = sample(5)
    with pytest.raises(ValueError, match="n >= 0"):
        select_prototypes(x, edges, -1)
    with pytest.raises(ValueError, match="n >= 0"):
        select_criticisms(x, edges, -1)
    with pytest.raises(ValueError, match="got 'greedy'"):
        select_prototypes(x, edges, 3, rule="greedy")
    with pytest.raises(ValueError, match=r"labels of shape \(N,\) = \(40,\)"):
        select_prototypes(x, edges, 3, labels=labels[:4])
    with pytest.raises(TypeError, match="integer labels"):
        select_prototypes(x, edges, 3, labels=labels.float())
    with pytest.raises(ValueError, match="finite features"):
        select_prototypes(x / 0, edges, 3)
    with pytest.raises(ValueError, match="same nodes"):
        select_prototypes(x[:5], edges, 3)
    with pytest.raises(ValueError, match="block_size"):
        select_prototypes(x, edges, 3, block_size=0)
    with pytest.raises(ValueError, match="share"):
        select_prototypes(x, edges, 3, rule="paper", share=2.0)
    with pytest.raises(ValueError, match="got 'paper'"):
        select_criticisms(x, edges, 3, estimate="paper")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="set CAPTUM_MARGIN_DATA")
def test_usps_errors_stay_below_those_of_the_peers():
    """1-NN test error: of class-wise k-means medoids; of MMD-critic without labels."""
    assert DATA is not None
    train, test = (np.load(Path(DATA) / f"usps_{s}.npz") for s in ("train", "test"))
    x, xt = (torch.from_numpy(d["images"].reshape(-1, 256)) for d in (train, test))
    y, yt = (torch.from_numpy(d["labels"].astype(np.int64)) for d in (train, test))
    edges, _ = knn_graph(x, 25)
    for labels, bars in ((y, {110: 14.1, 410: 9.5}), (None, {110: 18.3, 410: 11.3})):
        for n, bar in bars.items():
            chosen = select_prototypes(x, edges, n, labels=labels)
            nearest = torch.cdist(xt, x[chosen]).argmin(dim=1)
            error = 100 * (y[chosen][nearest] != yt).double().mean().item()
            assert error < bar
