"""MMD and density from disk against those in memory."""

import numpy as np
import pytest
import torch

from captum_margin import scale, signal
from captum_margin.scale import RowShards, kernels, undirected
from tests.helpers.shards import clusters, random_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels")
    x, y = clusters(90)
    rows = RowShards.create(
        path / "rows",
        90,
        5,
        block_size=17,
        order=np.random.default_rng(0).permutation(90),
    )
    indices, values = random_rows(90, 5, 0)
    for b in range(rows.num_blocks):
        rows.write_block(b, indices[rows.rows(b)], values[rows.rows(b)])
    np.save(path / "x.npy", x.numpy())
    return undirected(rows, path / "edges"), x, y, path / "x.npy"


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("chunks", [1, 5])
def test_mmd_is_that_of_the_same_random_features(made, monkeypatch, local, chunks):
    shards, x, y, file = made
    monkeypatch.setattr(kernels, "_NUMBERS", 90 * 64 // chunks)
    labels = y if local else None
    found = scale.leave_neighborhood_out_mmd(shards, file, labels=labels, n_features=64)
    expected = signal.leave_neighborhood_out_mmd(
        x,
        shards.to_graph().edge_index,
        labels=labels,
        estimate="features",
        n_features=64,
    )
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)


def test_mmd_of_classes_of_one_sample_is_zero(made):
    shards, x, _, _ = made
    labels = torch.arange(90)
    found = scale.leave_neighborhood_out_mmd(shards, x, labels=labels, n_features=8)
    assert torch.equal(found, torch.zeros(90))


@pytest.mark.parametrize("classes", [False, True])
def test_density_in_blocks_is_that_in_memory(made, monkeypatch, classes):
    _, x, y, file = made
    monkeypatch.setattr(kernels, "_ROWS", 13)
    given = (y, torch.where(y[:40] == 2, 0, y[:40])) if classes else ()
    found = scale.kernel_density(file, x[:40], *given)
    expected = signal.kernel_density(x, x[:40], *given)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert bool((found == 0).any()) == classes  # class 2 has no reference


@pytest.mark.parametrize("classes", [False, True])
def test_density_by_random_features_has_the_stated_error(made, classes):
    _, x, y, _ = made
    given = (y, y[:40]) if classes else ()
    found = scale.kernel_density(
        x, x[:40], *given, estimate="features", n_features=2**14
    )
    expected = signal.kernel_density(x, x[:40], *given)
    error = (found - expected).abs()
    assert float(error.max()) < 4 / 2**7
    assert float(error.max()) > 0


def test_arguments_are_checked(made):
    shards, x, y, _ = made
    mmd = scale.leave_neighborhood_out_mmd
    with pytest.raises(ValueError, match="even n_features"):
        mmd(shards, x, n_features=3)
    with pytest.raises(ValueError, match="N = 90"):
        mmd(shards, x[:5])
    with pytest.raises(ValueError, match="gamma > 0"):
        mmd(shards, x, gamma=-1.0)
    with pytest.raises(ValueError, match="expected estimate"):
        scale.kernel_density(x, x, estimate="paper")
    with pytest.raises(ValueError, match=r"features of shape \(N, F\)"):
        scale.row_norms(x[:, 0])
    with pytest.raises(ValueError, match="together"):
        scale.kernel_density(x, x, y)
    with pytest.raises(ValueError, match="F = 6"):
        scale.kernel_density(x, x[:, :2])
    with pytest.raises(ValueError, match=r"reference_classes of shape \(90,\)"):
        scale.kernel_density(x, x, y, y[:3])
