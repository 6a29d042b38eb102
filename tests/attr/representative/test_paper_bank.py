"""The paper's bank: joint k-means of feature maps, nearest centres among them."""

import numpy as np
import pytest
import torch
from torch import nn

from captum_margin.attr import RepresentativeInterpretation
from tests.attr.representative.test_explainer import (
    DOUBLE,
    case,
    examples,
    feature_maps,
    over_kinds,
    polytope,
)
from tests.reference import representative_reference as oracle


@over_kinds
def test_centres_are_a_fixed_point_of_k_means_of_all_feature_maps(kind):
    c = case(kind)
    n_classes = len(set(c.classes))
    bank = c.explainer.bank(3, seed=1, paper=True)
    assert len(bank) == len(bank.centers) == len(bank.means) == 3 * n_classes
    means = bank.means.numpy()
    assert means.shape[1:] == c.psi.shape[1:]
    clusters = np.array(oracle.joint_clusters(c.psi, means))
    for number, (center, one) in enumerate(
        zip(bank.centers.tolist(), bank, strict=True)
    ):
        # Lloyd's: each centre is the mean of what is nearest to it.
        expected = c.psi[clusters == number].mean(axis=0)
        np.testing.assert_allclose(means[number], expected, rtol=1e-6, atol=1e-8)
        far = [((psi - means[number]) ** 2).sum() for psi in c.psi]
        # Of a cluster of two neither is nearer, but for rounding.
        np.testing.assert_allclose(far[center], min(far), rtol=1e-6)
        chosen, _, covered, _ = polytope(c, c.psi[center], c.classes[center])
        assert one.boundaries.reference.tolist() == [c.sampled[h] for h in chosen]
        assert one.covered.tolist() == covered
    ranks = [(-one.purity, -len(one.covered)) for one in bank]
    assert ranks == sorted(ranks)


@over_kinds
def test_what_no_polytope_covers_goes_by_the_nearest_mean(kind):
    c = case(kind)
    bank, x = c.explainer.bank(2, paper=True), examples(kind, 60, 9)
    which, covered = bank.assign(x)
    covers = torch.stack([one.covers(x) for one in bank], dim=1).tolist()
    means = bank.means.numpy()
    expected = [
        oracle.assigned(row, psi, means)
        for row, psi in zip(covers, feature_maps(c, x), strict=True)
    ]
    assert list(zip(which.tolist(), covered.tolist(), strict=True)) == expected
    maps = bank.attribute(x, relu_attributions=True, paper=True)
    for i in range(0, 60, 7):
        one = bank[int(which[i])]
        alone = one.attribute(x[i : i + 1], relu_attributions=True, paper=True)
        torch.testing.assert_close(maps[i : i + 1], alone, **DOUBLE)


def test_one_cluster_more_may_go_to_a_class_than_to_another():
    # Three far groups of class 0 and one of class 1: two clusters a class are four.
    corners = torch.tensor([[9.0, 9], [9, 40], [40, 9], [-9, -9]]).double()
    points = corners.repeat_interleave(10, 0) + 0.1 * examples("flat", 40, 0)[:, :2]
    layer = nn.Identity()
    model = nn.Sequential(layer, nn.Linear(2, 2)).double()
    model[1].weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
    model[1].bias.data.zero_()
    fitted = RepresentativeInterpretation(model, layer).fit(points, seed=0)
    joint, default = fitted.bank(2, paper=True), fitted.bank(2)
    assert sorted(m // 10 for m in joint.centers.tolist()) == [0, 1, 2, 3]
    assert [one.predicted for one in joint].count(1) == 1
    assert [one.predicted for one in default].count(1) == 2
    assert default.means is None


def test_the_nearest_centre_may_be_of_another_class():
    c = case("conv")
    bank, x = c.explainer.bank(1, paper=True), examples("conv", 60, 9)
    which, covered = bank.assign(x)
    classes = torch.tensor([one.predicted for one in bank])
    decisions = c.model(x).argmax(dim=1)
    found = (~covered & (classes[which] != decisions)).sum()
    assert found > 0
    # Unless a target asks for its own.
    asked = decisions.where(torch.isin(decisions, classes), classes[0])
    assert torch.equal(classes[bank.assign(x, asked).which], asked)


def test_references_are_read_as_they_are_given():
    c = case("conv")
    fitted = RepresentativeInterpretation(c.model, c.model[1])
    options = {"n_boundaries": 12, "seed": 3}
    expected = c.explainer.bank(2, paper=True)
    loader = torch.utils.data.DataLoader(c.references, batch_size=7)
    again = fitted.fit(loader, **options).bank(2, paper=True)
    torch.testing.assert_close(again.means, expected.means, **DOUBLE)
    assert again.centers.tolist() == expected.centers.tolist()
    loaded = RepresentativeInterpretation(c.model, c.model[1])
    loaded.load_state_dict(fitted.state_dict())
    with pytest.raises(ValueError, match="references to read"):
        loaded.bank(2, paper=True)


def test_additional_arguments_go_with_the_references():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x, shift):
            values = self.layer(x + shift)
            return torch.stack([values.sum(1), -values.sum(1)], dim=1)

    x = examples("flat", 30, 0)
    shift = torch.arange(30.0).double()[:, None]
    model = Shifted()
    fitted = RepresentativeInterpretation(model, model.layer)
    bank = fitted.fit(x, shift, batch_size=4, seed=0).bank(1, paper=True)
    clusters = np.array(oracle.joint_clusters((x + shift).numpy(), bank.means.numpy()))
    for number in range(len(bank)):
        expected = (x + shift)[clusters == number].mean(dim=0)
        torch.testing.assert_close(bank.means[number], expected, rtol=1e-6, atol=1e-8)
