"""Near duplicates: what counts as near, by a slow reading of the definition."""

import numpy as np
import pytest
import torch

from captum_margin.influence import near_duplicates
from captum_margin.neighbors import Neighbors, find_neighbors


def cloud(n, width, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def groups(found):
    return [members.tolist() for members in found.members()]


def by_definition(indices, distances, threshold, by_chance):
    """Pairs and their relative distances, sample by sample."""
    n, k = indices.shape
    rank = min(5, k // 2)
    growth = [np.log(row[-1] / row[rank - 1]) for row in distances if row[rank - 1] > 0]
    dimensions = sum(1 / j for j in range(rank, k)) / np.mean(growth)
    limit = min(threshold, (2 * by_chance / rank) ** (1 / dimensions))
    usual = [np.sort(distances[row, rank - 1])[(k - 1) // 2] for row in indices]
    pairs = {}
    for i in range(n):
        for j, distance in zip(indices[i], distances[i], strict=True):
            relative = distance / min(usual[i], usual[j])
            if relative <= limit:
                pairs[i, int(j)] = relative
    return pairs, limit


@pytest.mark.parametrize(("width", "k"), [(3, 12), (20, 30), (20, 7)])
def test_pairs_are_those_of_the_definition(width, k):
    points = cloud(300, width)
    copies = points[:40] + torch.linspace(0, 1.5, 40)[:, None] * cloud(40, width, 1)
    neighbors = find_neighbors(torch.cat([points, copies]), k)
    found = near_duplicates(neighbors, threshold=0.7, by_chance=0.05)
    indices, distances = neighbors.indices.numpy(), neighbors.distances.double().numpy()
    pairs, limit = by_definition(indices, distances, 0.7, 0.05)
    assert found.threshold == pytest.approx(limit, rel=1e-6)
    assert (limit < 0.7) == (width == 3) and len(pairs) > 10
    # Connected components by joining labels until nothing changes.
    label = list(range(340))
    for _ in range(340):
        for i, j in pairs:
            label[i] = label[j] = min(label[i], label[j])
    expected = [[i for i in range(340) if label[i] == c] for c in range(340)]
    assert groups(found) == [members for members in expected if len(members) > 1]
    least = [
        min((r for pair, r in pairs.items() if i in pair), default=np.inf)
        for i in range(340)
    ]
    np.testing.assert_allclose(found.distance, least, rtol=1e-5)


def test_in_few_dimensions_chance_brings_no_more_than_allowed():
    """Of points without duplicates: 1 pair per 1,000 by default, 20 if so many.

    In more dimensions it is less, for the points thin out within a neighbourhood.
    """
    for width, least in ((1, 100), (2, 100), (4, 100), (8, 40)):
        neighbors = find_neighbors(cloud(8000, width), 30)
        assert len(near_duplicates(neighbors).members()) <= 16  # 8 expected
        many = near_duplicates(neighbors, threshold=1.0, by_chance=0.02).members()
        assert least <= len(many) <= 220  # 160 expected


def test_copies_of_all_samples_and_many_of_one_are_found():
    points = cloud(200, 24)
    thrice = torch.cat([points, points + 0.01, points - 0.01])
    found = near_duplicates(find_neighbors(thrice, 30))
    assert groups(found) == [[i, i + 200, i + 400] for i in range(200)]
    many = torch.cat([points, points[:1].repeat(14, 1) + 0.01 * cloud(14, 24, 2)])
    assert groups(near_duplicates(find_neighbors(many, 30))) == [[0, *range(200, 214)]]
    # Beyond k exact copies are found all the same.
    exact = torch.cat([points, points[:1].repeat(80, 1)])
    found = near_duplicates(find_neighbors(exact, 30))
    assert {len(members) for members in found.members()} <= {81, 31, 32}
    assert (found.group[200:] >= 0).all() and (found.group[1:200] == -1).all()


def test_a_small_class_far_from_all_is_no_group_of_duplicates():
    points = torch.cat([cloud(300, 16), 50 + cloud(8, 16, 1)])
    assert groups(near_duplicates(find_neighbors(points, 30))) == []
    points[307] = points[305] + 0.01
    assert groups(near_duplicates(find_neighbors(points, 30))) == [[305, 307]]


def test_the_scale_of_features_and_the_order_of_samples_change_nothing():
    points = cloud(200, 16)
    points[150] = points[20] + 0.05
    points[90] = points[70] + 0.05
    first = near_duplicates(find_neighbors(points, 20))
    scaled = near_duplicates(find_neighbors(1000 * points, 20))
    assert groups(first) == groups(scaled) == [[20, 150], [70, 90]]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    moved = near_duplicates(find_neighbors(points[order], 20))
    back = {tuple(sorted(order[members].tolist())) for members in moved.members()}
    assert back == {(20, 150), (70, 90)}
    torch.testing.assert_close(moved.distance, first.distance[order])


def test_few_samples_the_same_ones_and_missing_neighbours():
    assert groups(near_duplicates(find_neighbors(torch.ones(4, 2), 3))) == [
        [0, 1, 2, 3]
    ]
    pair = near_duplicates(find_neighbors(torch.tensor([[0.0], [1.0]]), 1))
    assert groups(pair) == [] and pair.distance.tolist() == [float("inf")] * 2
    same = near_duplicates(find_neighbors(torch.tensor([[1.0], [1.0]]), 1))
    assert groups(same) == [[0, 1]] and same.distance.tolist() == [0, 0]
    # -1 and infinity where there are no more: as if the list were shorter.
    indices = torch.tensor([[1, 2, -1], [0, 2, -1], [1, 0, -1], [-1, -1, -1]])
    lengths = torch.tensor([[1.0, 2.0], [1.0, 3.0], [3.0, 2.0]])
    distances = torch.full((4, 3), torch.inf)
    distances[:3, :2] = lengths
    found = near_duplicates(Neighbors(indices, distances, "given", None))
    assert groups(found) == []
    distances[0, 0] = distances[1, 0] = 0
    found = near_duplicates(Neighbors(indices, distances, "given", None))
    assert groups(found) == [[0, 1]]


def test_what_does_not_fit_is_said():
    neighbors = find_neighbors(cloud(10, 2), 3)
    with pytest.raises(TypeError, match=r"find_neighbors\(features, k\).*Tensor"):
        near_duplicates(neighbors.distances)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"threshold within \[0, 1\]"):
            near_duplicates(neighbors, threshold=threshold)
    for by_chance in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="by_chance > 0"):
            near_duplicates(neighbors, by_chance=by_chance)
