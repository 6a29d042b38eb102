"""Leave-one-out votes of a kernel ridge regression."""

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.signal import _kernel_ridge
from captum_margin.signal._kernel_ridge import AllVotes, KernelRidge, learners
from captum_margin.signal._sparse_rows import SparseRows
from tests.reference import label_noise_reference as reference


def problem(n=30, features=4, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64) + 2
    noise = torch.randn(n, channels, generator=generator, dtype=torch.float64)
    return x, x[:, :1].sin() + x[:, 1:2] * torch.arange(channels) + 0.3 * noise


def one_hot(n, classes=3):
    return torch.nn.functional.one_hot(torch.arange(n) % classes).double()


@pytest.mark.parametrize(("n", "features"), [(30, 4), (12, 20), (3, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_a_regression_on_all_others(n, features, seed):
    x, f = problem(n, features, channels=2, seed=seed)
    expected = reference.all_votes(x.numpy(), f.numpy())
    np.testing.assert_allclose(AllVotes(x)(f).numpy(), expected, rtol=1e-7, atol=1e-8)


def test_new_points_are_predicted_by_the_regression_on_all():
    x, f = problem(25)
    new, _ = problem(7, seed=5)
    expected = reference.all_votes(x.numpy(), f.numpy(), new.numpy())
    votes = AllVotes(x)(f, new)
    np.testing.assert_allclose(votes.numpy(), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("noise", "power"), [(0.01, -7), (0.3, -3), (30.0, 1)])
def test_the_penalty_is_that_of_the_least_left_out_error(noise, power):
    """The noisier the values, the larger."""
    x, _ = problem(30)
    generator = torch.Generator().manual_seed(3)
    f = x.sin() + noise * torch.randn(30, 4, generator=generator, dtype=x.dtype)
    points = x.numpy()
    among = reference.gaussian_kernel(points, points, reference.gamma_of(points))
    expected, penalty = reference.left_out(among, f.numpy())
    np.testing.assert_allclose(AllVotes(x)(f).numpy(), expected, rtol=1e-6, atol=1e-7)
    share = penalty / reference.largest_eigenvalue(among)
    assert share == pytest.approx(4.0**power)


def test_a_sample_has_no_vote_on_itself():
    x, f = problem()
    changed = f.clone()
    changed[7] += 1e-6  # too little to change the penalty
    everybody = AllVotes(x)
    difference = (everybody(changed) - everybody(f)).abs().amax(dim=1)
    assert difference[7] < 1e-13 and (difference[:7] > 1e-10).any()


def test_rows_of_one_hot_labels_add_up_to_one():
    x, _ = problem()
    total = AllVotes(x)(one_hot(30)).sum(dim=1)
    torch.testing.assert_close(total, torch.ones(30).double())


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9, 0.1, 1 / 3, 1e6])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_identical_points_get_the_mean_of_the_others(value, width):
    f = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        votes = AllVotes(torch.full((3, width), value, dtype=dtype))(f)
        torch.testing.assert_close(votes.flatten().tolist(), [3.0, 2.5, 0.5])


@pytest.mark.parametrize("n", [20, 60, 200])
def test_points_that_only_rounding_tells_apart_are_identical(n):
    """Rows that are multiples of one another, as unit rows."""
    x = torch.arange(1, n + 1, dtype=torch.float64)[:, None] * torch.tensor(
        [[0.3, 0.1, 0.7]], dtype=torch.float64
    )
    x = x / x.norm(dim=1, keepdim=True)
    f = one_hot(n)
    expected = (f.sum(dim=0) - f) / (n - 1)
    torch.testing.assert_close(AllVotes(x)(f), expected, rtol=0, atol=1e-6)


def test_duplicates_do_not_narrow_the_bumps():
    """Their width is the median distance of those that differ, not of rounding."""
    x, f = problem(20)
    thrice, values = x.repeat(3, 1) + 1000, f.repeat(3, 1)
    expected = reference.all_votes(thrice.numpy(), values.numpy())
    votes = AllVotes(thrice)(values)
    np.testing.assert_allclose(votes.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_of_two_samples_each_is_what_the_other_is():
    x, f = problem(2)
    torch.testing.assert_close(AllVotes(x)(f), f.flip(0))


def test_blocks_do_not_change_it(monkeypatch):
    x, f = problem()
    votes = AllVotes(x)(f, x[:9] + 0.1)
    monkeypatch.setattr(_kernel_ridge, "BLOCK_NUMBERS", 7 * 2048)
    blocks = list(_kernel_ridge._of(x))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
    torch.testing.assert_close(AllVotes(x)(f, x[:9] + 0.1), votes, rtol=1e-9, atol=1e-9)


@pytest.fixture
def few(monkeypatch):
    """Of many samples 24 learn, around 10 landmarks."""
    monkeypatch.setattr(_kernel_ridge, "MOST_LEARNERS", 24)
    monkeypatch.setattr(_kernel_ridge, "MOST_LANDMARKS", 10)


def of_few(x, f):
    """The same, restated: votes of learners left out, of others predicted."""
    order = learners(len(x)).numpy()
    assert len(order) == min(24, len(x)) and len({*order.tolist()}) == len(order)
    learnt, landmarks = x[order], x[order[:10]]
    gamma = reference.gamma_of(learnt)
    among = reference.nystrom(learnt, learnt, landmarks, gamma)
    own, penalty = reference.left_out(among, f[order])
    to = reference.nystrom(x, learnt, landmarks, gamma)
    votes = reference.ridge(among, f[order], to, penalty)
    votes[order] = own
    return votes


def test_few_landmarks(few):
    x, f = problem(24)
    votes = AllVotes(x)(f)
    np.testing.assert_allclose(
        votes.numpy(), of_few(x.numpy(), f.numpy()), rtol=1e-6, atol=1e-7
    )


def test_those_that_were_not_learnt_from_are_predicted(few):
    x, f = problem(70)
    x = x.float().double()  # of many no more digits count
    votes = AllVotes(x)(f)
    expected = of_few(x.numpy(), f.numpy())
    np.testing.assert_allclose(votes.numpy(), expected, rtol=1e-3, atol=1e-3)
    changed = f.clone()
    rest = torch.ones(70, dtype=torch.bool)
    rest[learners(70)] = False
    changed[rest] += 7.0
    assert torch.equal(AllVotes(x)(changed), votes)  # nobody asked these


def test_of_very_many_samples_there_are_fewer_landmarks(monkeypatch):
    x, _ = problem(40)
    monkeypatch.setattr(_kernel_ridge, "FEW_LANDMARKS", 15)
    assert len(KernelRidge(x, _kernel_ridge.VERY_MANY).landmarks) == 40
    assert len(KernelRidge(x, _kernel_ridge.VERY_MANY + 1).landmarks) == 15


@pytest.mark.parametrize("rows", [None, 24])
def test_sparse_points_are_as_dense_ones(monkeypatch, rows):
    if rows is not None:
        monkeypatch.setattr(_kernel_ridge, "MOST_LEARNERS", rows)
        monkeypatch.setattr(_kernel_ridge, "MOST_LANDMARKS", 10)
    x, f = problem(60, 12)
    x = torch.where(x < 2.5, 0.0, x)
    new = torch.where(problem(5, 12, seed=3)[0] < 2, 0.0, 1.0).double()
    sparse, other = (SparseRows(scipy.sparse.csr_matrix(v.numpy())) for v in (x, new))
    votes = AllVotes(sparse)(f, other).double()
    expected = AllVotes(x)(f, new).double()
    close = {"rtol": 1e-7, "atol": 1e-8} if rows is None else {"rtol": 0, "atol": 2e-3}
    torch.testing.assert_close(votes, expected, **close)


def test_single_precision_is_as_double():
    x, f = problem(200)
    votes = AllVotes(x.float())(f)
    assert votes.dtype == torch.float32
    torch.testing.assert_close(votes.double(), AllVotes(x)(f), rtol=0, atol=2e-3)


def test_it_is_the_same_every_time_and_leaves_the_global_generator_alone():
    x, f = problem(50)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    votes = AllVotes(x)(f)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(AllVotes(x)(f), votes)


def test_it_is_linear_for_a_fixed_penalty(monkeypatch):
    monkeypatch.setattr(_kernel_ridge, "_PENALTIES", [0.01])
    x, f = problem()
    g = f.flip(0).cos()
    everybody = AllVotes(x)
    together = everybody(2 * f - 3 * g)
    torch.testing.assert_close(together, 2 * everybody(f) - 3 * everybody(g))


def test_where_points_lie_and_how_they_are_turned_does_not_matter():
    x, f = problem()
    votes = AllVotes(x)(f)
    turn, _ = torch.linalg.qr(problem(4)[0])
    for moved in (x + 100, x @ turn, 7 * x):  # nor in what unit they are measured
        torch.testing.assert_close(AllVotes(moved)(f), votes, rtol=1e-5, atol=1e-6)


def test_smooth_functions_are_their_own_votes():
    x, _ = problem(400, 2)
    f = (x[:, :1] - 0.5 * x[:, 1:]).sin()
    assert (AllVotes(x)(f) - f).abs().mean() < 0.02 * f.std()
