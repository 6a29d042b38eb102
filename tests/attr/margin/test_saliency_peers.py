"""The peers that the benchmark of saliency maps has written anew, and its packages."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmarks.networks import vit
from tests.benchmarks.networks.trained import CountedNetwork
from tests.benchmarks.saliency import methods, region_search, sensitivity, transformer
from tests.benchmarks.saliency.games import (
    permutation_shapley,
    shap_partition,
    shapley_values,
    svarm,
)
from tests.benchmarks.saliency.methods import Photograph, superpixels
from tests.benchmarks.saliency.rows import ROWS

SIDE = 32
# Where the evidence is: one cell of an 8 x 8 grid.
HERE = (slice(8, 12), slice(20, 24))


def photograph():
    """A network that sees the brightness of one place only, where it is bright."""

    def below(x):
        weights = x.new_zeros(SIDE, SIDE)
        weights[HERE] = 1 / 16
        return (x.mean(dim=1, keepdim=True) * weights).sum(dim=(2, 3), keepdim=True)

    def above(maps):
        score = maps.flatten(1)
        return torch.cat([score, -score], dim=1)

    model = CountedNetwork(
        below, above, nn.Identity(), torch.float32, -torch.ones(1, 3, 1, 1)
    )
    image = 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=generator())
    image[:, :, HERE[0], HERE[1]] += 3
    return Photograph(model, image, 0, superpixels(image), seed=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Global sensitivity.


def test_hsic_is_the_trace_formula():
    masks = sensitivity.binary_hypercube(10, 3, generator())
    scores = torch.rand(10, generator=generator(1))
    n = len(scores)
    centring = torch.eye(n) - 1 / n
    width = scores.median()
    of_scores = torch.exp(
        -((scores[:, None] - scores) ** 2) / (2 * width**2)
    )  # as the paper has it, all matrices written out
    for column, found in zip(
        masks.T, sensitivity.hsic_indices(masks, scores), strict=True
    ):
        of_masks = (column[:, None] == column).float()
        trace = torch.trace(of_masks @ centring @ of_scores @ centring)
        assert float(found) == pytest.approx(float(trace) / (n - 1) ** 2, rel=1e-4)


def test_hsic_of_what_the_score_does_not_depend_on_is_nearly_nothing():
    masks = sensitivity.binary_hypercube(1000, 4, generator())
    found = sensitivity.hsic_indices(masks, 0.2 + masks[:, 2])
    assert found.argmax() == 2
    assert found[[0, 1, 3]].max() < 0.01 * found[2]


def test_binary_hypercube_has_as_many_ones_as_zeros_in_each_column():
    masks = sensitivity.binary_hypercube(50, 7, generator())
    assert masks.sum(dim=0).tolist() == [25] * 7
    assert len(masks.T.unique(dim=0)) == 7


def test_sobol_designs_change_one_column_at_a_time():
    n, d = 8, 3
    a, b, *changed = sensitivity.sobol_designs(n, d, seed=0).split(n)
    assert len(changed) == d
    for column, found in enumerate(changed):
        assert torch.equal(found[:, column], b[:, column])
        others = [i for i in range(d) if i != column]
        assert torch.equal(found[:, others], a[:, others])


def test_total_order_of_ishigami():
    n, a, b = 8192, 7.0, 0.1
    x = (2 * sensitivity.sobol_designs(n, 3, seed=0).double() - 1) * math.pi
    scores = torch.sin(x[:, 0]) * (1 + b * x[:, 2] ** 4) + a * torch.sin(x[:, 1]) ** 2
    v1 = 0.5 * (1 + b * math.pi**4 / 5) ** 2
    v13 = b**2 * math.pi**8 * (1 / 18 - 1 / 50)
    variance = v1 + a**2 / 8 + v13
    expected = [(v1 + v13) / variance, a**2 / 8 / variance, v13 / variance]
    found = sensitivity.total_order(scores, n)
    assert found.tolist() == pytest.approx(expected, abs=0.01)


def test_total_order_of_a_sum_is_each_share_of_the_variance():
    n, weights = 4096, torch.tensor([1.0, 2.0, 3.0])
    scores = sensitivity.sobol_designs(n, 3, seed=0) @ weights
    expected = (weights**2 / (weights**2).sum()).tolist()
    found = sensitivity.total_order(scores, n)
    assert found.tolist() == pytest.approx(expected, abs=0.01)


# Greedy search.


def test_greedy_order_of_a_sum_is_by_weight():
    weights = torch.tensor([0.3, -0.2, 0.9, 0.0, 0.5])
    sizes = []

    def worth(sets):
        sizes.append(len(sets))
        return sets @ weights

    order = region_search.greedy_order(worth, len(weights))
    assert order.tolist() == weights.argsort(descending=True).tolist()
    assert sizes == [5, 3, 1]  # both ends a round


def test_greedy_search_takes_what_adds_to_what_is_there():
    covers = torch.tensor(
        [[1.0, 1, 0, 0], [1, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0.1], [0, 0, 0, 0.2]]
    )

    def worth(sets):  # how much is covered; the first two cover nearly the same
        return (sets @ covers).clamp_max(1).sum(dim=1)

    # Alone the second is nearly the best; beside the first it adds nothing.
    assert region_search.greedy_order(worth, 5).tolist() == [0, 2, 4, 1, 3]


# Games.


def three_of_four(coalitions):
    """1 for three or more players, and 2 more where 0 and 1 meet."""
    coalitions = coalitions.astype(float)
    together = coalitions[:, 0] * coalitions[:, 1]
    return (coalitions.sum(axis=1) >= 3) + 2 * together


def exact_shapley(game, n):
    """The mean over all orders of what each adds."""
    values = np.zeros(n)
    for order in itertools.permutations(range(n)):
        coalition = np.zeros((1, n), dtype=bool)
        before = game(coalition)[0]
        for player in order:
            coalition[0, player] = True
            after = game(coalition)[0]
            values[player] += after - before
            before = after
    return values / math.factorial(n)


@pytest.mark.parametrize("name", ["SVARM", "PermutationSamplingSV"])
@pytest.mark.filterwarnings("ignore:Not all budget is required")
def test_shapley_values_of_four_players(name):
    approximator = pytest.importorskip("shapiq.approximator")
    expected = exact_shapley(three_of_four, 4)
    assert expected.sum() == 3
    found = shapley_values(getattr(approximator, name), 4, 6000, three_of_four, seed=0)
    assert found == pytest.approx(expected, abs=0.1)


# A transformer.


def small_transformer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = vit.architecture()
        nn.init.normal_(net.heads.head.weight, std=0.1)
    for block in net.encoder.layers:
        nn.init.normal_(
            block.self_attention.in_proj_bias, std=0.1, generator=generator()
        )
    return net.eval()


def test_both_passes_are_the_network():
    net = small_transformer()
    image = torch.randn(2, 3, 32, 32, generator=generator())
    expected = net(image)
    for rules in (transformer.PLAIN, transformer.LRP):
        found = transformer.forward(net, image, rules)
        torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-4)
    assert len(found.attention) == len(net.encoder.layers)
    total = found.attention[0].sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_legrad_of_one_head_is_the_closed_form():
    # Two tokens, one head, values as they are: the class token's score is w (a V)_0, so
    # that d score / d a_0j = w V_j and the rows of other queries have no gradient.
    values = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    weight = torch.tensor([1.0, 3.0])
    attention = torch.tensor([[[[0.4, 0.6], [0.5, 0.5]]]], requires_grad=True)
    score = ((attention[0, 0] @ values)[0] * weight).sum()
    found = transformer.attention_gradient(score, attention)
    expected = (values @ weight).clamp_min(0) / 2  # mean over two queries
    torch.testing.assert_close(found, expected)


def test_relevance_of_products_and_linear_layers_is_conserved():
    # Without biases nothing is lost: attention of linear maps, then a linear head.
    x = torch.randn(1, 5, 8, generator=generator(), dtype=torch.float64)
    layers = [nn.Linear(8, 8, bias=False, dtype=torch.float64) for _ in range(4)]
    for seed, layer in enumerate(layers):
        nn.init.normal_(layer.weight, generator=generator(seed))
    x.requires_grad_()
    rules = transformer.LRP
    query, key, value = (rules.affine(layer, x) for layer in layers[:3])
    product = rules.product(query, key.transpose(1, 2))
    mixed = rules.product(product, value)
    logit = rules.affine(layers[3], mixed)[0, 0, 0]
    (gradient,) = torch.autograd.grad(logit, x)
    assert float((x * gradient).sum()) == pytest.approx(logit.item(), rel=1e-6)
    # By plain gradients the cubic form would count three times.
    query, key, value = (layer(x) for layer in layers[:3])
    plain = layers[3](query @ key.transpose(1, 2) @ value)[0, 0, 0]
    (gradient,) = torch.autograd.grad(plain, x)
    assert float((x * gradient).sum()) == pytest.approx(3 * plain.item(), rel=1e-6)


def test_softmax_gives_the_relevance_of_its_taylor_rule():
    x = torch.randn(6, generator=generator(), requires_grad=True)
    of_output = torch.randn(6, generator=generator(1))
    weights = x.softmax(dim=0)
    (gradient,) = torch.autograd.grad(
        (weights * (of_output / weights).detach()).sum(), x
    )
    expected = x * (of_output - weights * of_output.sum())
    torch.testing.assert_close(x * gradient, expected)


def test_activations_and_norms_pass_relevance_unchanged():
    x = torch.randn(
        3, 8, generator=generator(), dtype=torch.float64, requires_grad=True
    )
    of_output = torch.randn(3, 8, generator=generator(1), dtype=torch.float64)
    out = transformer.identity_rule(nn.GELU(), x)
    (gradient,) = torch.autograd.grad((out * (of_output / out).detach()).sum(), x)
    torch.testing.assert_close(x * gradient, of_output, rtol=1e-5, atol=1e-6)
    out = transformer.norm_rule(nn.LayerNorm(8, dtype=torch.float64), x)
    (gradient,) = torch.autograd.grad((out * (of_output / out).detach()).sum(), x)
    # The mean is a linear layer: the sum of each row stays.
    torch.testing.assert_close((x * gradient).sum(1), of_output.sum(1))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gamma_rule_is_the_formula(sign):
    x = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    layer = nn.Linear(3, 1, bias=False)
    layer.weight = nn.Parameter(sign * torch.tensor([[3.0, 0.5, -1.0]]))
    out = transformer.gamma_rule(layer, x)
    assert float(out) == pytest.approx(sign * 1.5)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    parts = sign * torch.tensor([3.0, -1.0, -0.5])
    boosted = parts + 0.05 * (parts.clamp_min(0) if sign > 0 else parts.clamp_max(0))
    expected = boosted / boosted.sum() * float(out)
    torch.testing.assert_close((x * gradient)[0], expected)


# All of them.


@pytest.mark.parametrize("name", ["HSIC-500", "Sobol-792", "RISE-800"])
def test_black_boxes_find_the_place(name):
    photo = photograph()
    found = ROWS[name].make(photo)
    assert found.shape == (SIDE, SIDE)
    row, column = divmod(int(found.argmax()), SIDE)
    assert HERE[0].start - 2 <= row < HERE[0].stop + 2
    assert HERE[1].start - 2 <= column < HERE[1].stop + 2


@pytest.mark.parametrize(
    ("package", "method"),
    [
        ("shap", shap_partition),
        ("shapiq", permutation_shapley),
        ("shapiq", svarm),
    ],
)
def test_packages_find_the_place(package, method):
    pytest.importorskip(package)
    photo = photograph()
    found = method(photo)
    assert found.shape == (SIDE, SIDE)
    mean = found[HERE].mean()
    assert mean > found.mean() + 2 * found.std()
    assert 400 <= photo.model.n_forward <= 810


@pytest.mark.parametrize(
    ("name", "passes"), [("HSIC-500", 500), ("Sobol-2112", 2112), ("Sobol-792", 792)]
)
def test_budgets_are_spent_in_full(name, passes):
    photo = photograph()
    ROWS[name].make(photo)
    assert photo.model.n_forward == passes
    assert photo.model.n_backward == 0


def test_greedy_search_costs_half_the_square_of_the_regions():
    photo = photograph()
    found = region_search.region_search(photo)
    assert found[HERE].mean() > 0.9 * found.max()
    n = len(photo.segments[0].unique())
    assert n > 10
    assert photo.model.n_forward == sum(2 * k for k in range(n, 0, -2))


def test_edges_are_where_brightness_changes():
    photo = photograph()
    photo.image = torch.zeros(1, 3, 8, 8)
    photo.image[..., 4:] = 8
    found = methods.edges(photo)
    assert found[:, 3:5].tolist() == [[4.0, 4.0]] * 8
    assert float(found.sum()) == 64


def test_titles_say_what_a_method_sees_and_may_spend():
    assert ROWS["HSIC-500"].title == "HSIC, black box, published budget"
    assert ROWS["HSIC-800"].title == "HSIC, black box, our budget"
    assert ROWS["LeGrad"].title == "LeGrad, white box"
    assert ROWS["LeGrad"].networks == ("vit",)
    assert (
        ROWS["MarginSaliency-100-gradcam"].title
        == '**MarginSaliency**, `prior="gradcam"`, white box'
    )
