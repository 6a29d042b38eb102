"""The store: what goes in comes out, and whatever is wrong is said."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.scale import EdgeShards, RowShards, _folder, undirected
from captum_margin.signal import as_undirected, knn_graph
from tests.helpers.shards import Crash, contents, crash_at, random_rows, stored
from tests.reference import scale_reference as reference


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(6, 40),
    block_size=st.integers(1, 45),
    missing=st.sampled_from([0.0, 0.3]),
)
def test_what_goes_in_comes_out(tmp_path_factory, seed, n, block_size, missing):
    indices, values = random_rows(n, 4, seed, missing)
    path = tmp_path_factory.mktemp("store")
    shards = RowShards.from_arrays(path, indices, values, block_size=block_size)
    assert shards.num_blocks == -(-n // block_size) == len(shards.finished)
    blocks = [shards.block(b) for b in range(shards.num_blocks)]
    np.testing.assert_array_equal(np.concatenate([i for i, _ in blocks]), indices)
    kept = np.concatenate([v for _, v in blocks])
    np.testing.assert_array_equal(kept, np.where(indices < 0, 0, values))
    graph = shards.to_graph()
    pairs = set(map(tuple, graph.edge_index.T.tolist()))
    assert pairs == reference.union(indices, values).keys()


def test_manifest_says_what_is_stored(tmp_path):
    shards = RowShards.create(
        tmp_path, 10, 3, metric="cosine", values="weight", seed=4, block_size=4
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    expected = {"num_nodes": 10, "k": 3, "metric": "cosine", "values": "weight"}
    expected |= {"seed": 4, "symmetric": False, "starts": [0, 4, 8, 10]}
    assert expected.items() <= manifest.items()
    versions = manifest["versions"]
    assert versions.keys() == {"captum_margin", "numpy", "python", "torch"}
    assert shards.finished == []


def test_half_precision_is_kept(tmp_path):
    indices, values = random_rows(20, 3, 0)
    half = values.astype(np.float16)
    shards = RowShards.from_arrays(tmp_path, indices, half, kind="weight")
    assert shards.block(0)[1].dtype == np.float16
    weights = shards.sparse_rows(0).weights
    assert weights.dtype == torch.float32
    np.testing.assert_array_equal(weights.numpy(), half.astype(np.float32).ravel())


def test_weights_in_memory_are_the_larger_of_the_two(tmp_path):
    indices, values = random_rows(20, 3, 1)
    shards = RowShards.from_arrays(tmp_path, indices, values, kind="weight")
    target = torch.arange(20).repeat_interleave(3)
    edges = torch.stack([torch.from_numpy(indices.ravel()), target])
    expected = as_undirected(edges, torch.from_numpy(values.ravel()), 20)
    graph = shards.to_graph()
    assert torch.equal(graph.edge_index, expected.edge_index)
    assert torch.equal(graph.edge_weight, expected.edge_weight)


def test_the_order_of_the_samples_is_given_back(tmp_path):
    indices, _ = random_rows(9, 2, 2)
    order = np.random.default_rng(0).permutation(9)
    shards = RowShards.create(tmp_path, 9, 2, values="none", order=order, block_size=4)
    place = np.argsort(order)
    for b in range(shards.num_blocks):
        shards.write_block(b, place[indices[order[shards.rows(b)]]])
    assert (
        shards.to_graph().edge_index.tolist()
        == (
            RowShards.from_arrays(tmp_path / "plain", indices).to_graph().edge_index
        ).tolist()
    )
    x = torch.randn(9, 2)
    assert torch.equal(shards.to_rows(x), x[torch.from_numpy(order)])
    assert torch.equal(shards.to_samples(shards.to_rows(x)), x)


@pytest.mark.parametrize("change", [{"num_nodes": 51}, {"k": 5}, {"metric": "cosine"}])
def test_another_request_is_an_error(tmp_path, change):
    stored(tmp_path)
    request = {"num_nodes": 50, "k": 4, "block_size": 7, **change}
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"{name}: wanted .*delete this folder"):
        RowShards.create(tmp_path, **request)


def test_another_fingerprint_is_an_error(tmp_path):
    RowShards.create(tmp_path, 5, 2, fingerprint="a")
    with pytest.raises(ValueError, match='wanted "b", found "a"'):
        RowShards.create(tmp_path, 5, 2, fingerprint="b")


def test_finished_blocks_are_not_written_again(tmp_path):
    indices, values = random_rows(20, 3, 0)
    shards = RowShards.create(tmp_path, 20, 3, block_size=6)
    shards.write_block(1, indices[6:12], values[6:12])
    assert shards.finished == [1]
    before = (tmp_path / "000001.indices.npy").stat().st_mtime_ns
    shards = RowShards.from_arrays(tmp_path, indices, values, block_size=6)
    assert (tmp_path / "000001.indices.npy").stat().st_mtime_ns == before
    assert shards.finished == [0, 1, 2, 3]


@pytest.mark.parametrize("count", range(1, 15))
def test_a_death_at_any_write_loses_nothing(tmp_path, monkeypatch, count):
    stored(tmp_path / "whole", n=24)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, count)
        stored(tmp_path / "cut", n=24)
        raise Crash  # count is beyond the last write
    stored(tmp_path / "cut", n=24)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_missing_file_is_named(tmp_path):
    shards = stored(tmp_path)
    (tmp_path / "000002.values.npy").unlink()
    with pytest.raises(ValueError, match=r"block 2 .*000002.values.npy.*discard\(2\)"):
        shards.block(2)


@pytest.mark.parametrize("damage", ["cut", "empty", "shape"])
def test_a_damaged_file_is_named(tmp_path, damage):
    shards, file = stored(tmp_path), tmp_path / "000001.indices.npy"
    if damage == "shape":
        np.save(file, np.zeros((2, 2), np.int32))
    else:
        file.write_bytes(file.read_bytes()[: -9 if damage == "cut" else 0])
    with pytest.raises(ValueError, match=r"block 1 .*000001.indices.npy"):
        shards.block(1)
    shards.folder.discard(1)
    assert 1 not in shards.finished
    assert stored(tmp_path).block(1)[0].shape == (7, 4)  # written anew


def test_a_block_is_mapped_once_while_its_file_is_the_same(tmp_path):
    shards = stored(tmp_path)
    before = shards.block(1)[0]
    assert shards.block(1)[0] is before
    assert pickle.loads(pickle.dumps(shards)).block(1)[0] is not before
    other = before[:, ::-1].copy()
    RowShards(tmp_path).write_block(1, other, shards.block(1)[1])  # written by another
    np.testing.assert_array_equal(shards.block(1)[0], other)
    file = tmp_path / "000001.indices.npy"
    file.write_bytes(file.read_bytes()[:-9])  # not even a kept map hides the damage
    with pytest.raises(ValueError, match=r"block 1 .*000001.indices.npy"):
        shards.block(1)
    file.unlink()
    with pytest.raises(ValueError, match=r"block 1 .*000001.indices.npy"):
        shards.block(1)


def test_only_so_many_files_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(_folder, "_KEPT_MAPS", 3)
    shards = stored(tmp_path)
    first = [array for b in range(3) for array in shards.block(b)]  # two files each
    again = [array for b in range(3) for array in shards.block(b)]
    same = [old is new for old, new in zip(first, again, strict=True)]
    assert same == [True, True, True, False, False, False]
    for old, new in zip(first, again, strict=True):
        np.testing.assert_array_equal(old, new)


def test_changed_numbers_are_found_by_their_checksum(tmp_path):
    shards, file = stored(tmp_path), tmp_path / "000003.values.npy"
    shards.verify()
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"block 3 .*checksum"):
        shards.verify()


def test_an_unfinished_block_says_so(tmp_path):
    shards = RowShards.create(tmp_path, 5, 2)
    with pytest.raises(ValueError, match="run what writes the folder again"):
        shards.block(0)
    with pytest.raises(ValueError, match=r"block in \[0, 1\)"):
        shards.block(1)


def test_no_store_and_another_form_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a manifest"):
        RowShards(tmp_path / "nothing")
    stored(tmp_path)
    with pytest.raises(ValueError, match="expected edges"):
        EdgeShards(tmp_path)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([[0, 1]], [[1.0, 1.0]], "shape"),
        ([[0, 5], [1, 2], [0, 0]], np.ones((3, 2)), r"within \[-1, 3\)"),
        ([[0, -2], [1, 2], [0, 0]], np.ones((3, 2)), r"within \[-1, 3\)"),
        ([[0, 1], [1, 2], [0, 0]], -np.ones((3, 2)), "finite distances >= 0"),
        ([[0, 1], [1, 2], [0, 0]], np.full((3, 2), np.nan), "finite distances >= 0"),
        ([[0, 1], [1, 2], [0, 0]], None, "distances of shape"),
        ([[0.0, 1], [1, 2], [0, 0]], np.ones((3, 2)), "integer indices"),
    ],
)
def test_blocks_are_checked(tmp_path, indices, values, message):
    shards = RowShards.create(tmp_path, 3, 2)
    with pytest.raises(ValueError, match=message):
        values = None if values is None else np.asarray(values)
        shards.write_block(0, np.asarray(indices), values)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="k and block_size >= 1"):
        RowShards.create(tmp_path, 3, 0)
    with pytest.raises(ValueError, match="expected values"):
        RowShards.create(tmp_path, 3, 1, values="lengths")
    with pytest.raises(ValueError, match="starts that rise from 0 to N = 3"):
        RowShards.create(tmp_path, 3, 1, starts=np.array([0, 2, 2, 3]))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_sums_of_stored_weights_are_stored(tmp_path, missing):
    indices, values = random_rows(40, 4, 1, missing)
    rows = RowShards.from_arrays(
        tmp_path / "rows", indices, values, kind="weight", block_size=9
    )
    edges = undirected(rows, tmp_path / "edges")
    pairs = reference.union(indices, values, larger=True)
    whole = np.zeros((40, 40))
    whole[tuple(np.array(list(pairs)).T)] = list(pairs.values())
    directed = np.where(indices < 0, 0, values).sum(axis=1, dtype=np.float64)
    for shards, expected in ((rows, directed), (edges, whole.sum(axis=1))):
        kept = [shards.degrees(b) for b in range(shards.num_blocks)]
        torch.testing.assert_close(torch.cat(kept), torch.from_numpy(expected))
    assert stored(tmp_path / "distances").degrees(0) is None


def test_a_view_goes_to_another_process(tmp_path):
    edges = undirected(stored(tmp_path / "rows"), tmp_path / "edges").gaussian(0.5)
    other = pickle.loads(pickle.dumps(edges))
    assert other.width == edges.width
    assert torch.equal(other.sparse_rows(2).weights, edges.sparse_rows(2).weights)


@pytest.mark.parametrize("bandwidth", [0.5, 1.0])
def test_weights_are_those_of_the_package(tmp_path, bandwidth):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    x[:5] = x[0]  # edges of length zero do not count for the median
    rows = RowShards.from_arrays(
        tmp_path / "rows", *reference.neighbors(x.numpy(), 5), block_size=13
    )
    graph = undirected(rows, tmp_path / "edges").gaussian(bandwidth).to_graph()
    edge_index, weight = knn_graph(x.double(), 5, weight="gaussian")
    assert torch.equal(graph.edge_index, edge_index)
    expected = weight.pow(bandwidth**-2).float()
    torch.testing.assert_close(graph.edge_weight, expected, rtol=2e-6, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), zeros=st.booleans())
def test_the_median_is_exact(tmp_path_factory, seed, zeros):
    path = tmp_path_factory.mktemp("store")
    indices, values = random_rows(12, 3, seed)
    values *= np.random.default_rng(seed).choice([1e-30, 1, 1e20], values.shape)
    values[: 6 if zeros else 0] = 0
    rows = RowShards.from_arrays(path / "r", indices, values, block_size=5)
    edges = undirected(rows, path / "e")
    kept = [v for v in reference.union(indices, values).values() if v > 0]
    assert edges.median_distance() == float(torch.tensor(kept).median())


def test_a_graph_of_duplicates_has_width_one(tmp_path):
    rows = RowShards.from_arrays(tmp_path / "r", np.array([[1], [0]]), np.zeros((2, 1)))
    edges = undirected(rows, tmp_path / "e")
    assert edges.gaussian().width == 1
    assert edges.gaussian().sparse_rows(0).weights.tolist() == [1, 1]
    with pytest.raises(ValueError, match="bandwidth > 0"):
        edges.gaussian(0)
    plain = RowShards.from_arrays(tmp_path / "p", np.array([[1], [0]]))
    with pytest.raises(ValueError, match="keep distances"):
        undirected(plain, tmp_path / "pe").gaussian()
