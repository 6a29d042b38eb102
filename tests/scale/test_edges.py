"""The undirected graph on disk against a union by dictionaries."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.scale import RowShards, undirected
from tests.helpers.shards import Crash, contents, crash_at, random_rows, stored
from tests.reference import scale_reference as reference


def edges_of(edges):
    found = {}
    for b in range(edges.num_blocks):
        pointer, indices, values = edges.block(b)
        for row, (low, high) in enumerate(pairwise(pointer)):
            near = indices[low:high].tolist()
            assert near == sorted(set(near))
            i = row + edges.rows(b).start
            for at, j in enumerate(near):
                found[i, j] = None if values is None else float(values[low + at])
    return found


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(6, 40),
    block_size=st.integers(1, 45),
    missing=st.sampled_from([0.0, 0.4]),
    kind=st.sampled_from(["distance", "weight"]),
)
def test_is_the_union(tmp_path_factory, seed, n, block_size, missing, kind):
    path = tmp_path_factory.mktemp("edges")
    indices, values = random_rows(n, 4, seed, missing)
    rows = RowShards.from_arrays(
        path / "r", indices, values, kind=kind, block_size=block_size
    )
    edges = undirected(rows, path / "e")
    expected = reference.union(indices, values, larger=kind == "weight")
    assert edges_of(edges) == expected
    assert edges.num_edges == len(expected)
    assert not (path / "e" / "reversed").exists()


def test_a_hub_self_loops_and_no_neighbours(tmp_path):
    indices = np.array([[-1], [0], [0], [0], [4]])
    edges = undirected(
        RowShards.from_arrays(tmp_path / "r", indices, block_size=2), tmp_path / "e"
    )
    hub = {(0, j) for j in (1, 2, 3)} | {(j, 0) for j in (1, 2, 3)}
    assert edges_of(edges).keys() == hub
    assert edges.sparse_rows(2).pointer.tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 9, 16, 24, 30, 41, 43])
def test_a_death_at_any_write_loses_nothing(tmp_path, monkeypatch, count):
    rows = stored(tmp_path / "rows", n=24)
    undirected(rows, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, count)
        undirected(rows, tmp_path / "cut")
        raise Crash  # count is beyond the last write
    undirected(rows, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_edges_of_other_rows_are_an_error(tmp_path):
    undirected(stored(tmp_path / "a"), tmp_path / "edges")
    with pytest.raises(ValueError, match="wanted 3, found 4"):
        undirected(stored(tmp_path / "b", k=3), tmp_path / "edges")


def test_missing_rows_are_an_error(tmp_path):
    rows = RowShards.create(tmp_path / "rows", 5, 2)
    with pytest.raises(ValueError, match="to be finished"):
        undirected(rows, tmp_path / "edges")
