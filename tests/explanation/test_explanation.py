"""One record for every method: what it keeps, the file, the picture, the numbers."""

import dataclasses
import io
import warnings

import numpy as np
import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
)

import captum_margin
from captum_margin import Explanation, explain
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
)
from captum_margin.metrics import (
    average_drop,
    insertion_deletion,
    smallest_region,
)
from tests.helpers import models
from tests.helpers.records import assert_same, same, saved

TILES = models.tiles(24, 20, 10)


@pytest.fixture(scope="module")
def model():
    return models.conv()


@pytest.fixture
def x():
    return models.images()


def test_margin_saliency(model, x, tmp_path):
    target = torch.tensor([1, 3])
    method = MarginSaliency(model)
    options = {"n_evaluations": 33, "feature_mask": TILES, "baselines": 0.1}
    counted = models.Counted(model)
    found = explain(MarginSaliency(counted), x, target=target, **options)
    assert torch.equal(
        found.attributions, method.attribute(x, target=target, **options)
    )
    assert found.method == "MarginSaliency" and torch.equal(found.target, target)
    assert torch.equal(found.inputs, x) and found.inputs is not x
    _, details = method.attribute(x, target=target, return_details=True, **options)
    assert torch.equal(found.details["scores"], details.scores)
    for (segments,) in found.details["segments"]:
        assert torch.equal(segments.expand(1, 1, 24, 20)[0, 0], TILES)
    assert found.settings["baselines"] == 0.1 and found.settings["signed"] is True
    assert torch.equal(found.settings["feature_mask"], TILES)
    assert found.n_forward == -(-counted.rows // 2) == details.n_forward
    assert found.seconds > 0
    assert found.versions["captum_margin"] == captum_margin.__version__
    assert found.versions["captum"] and found.versions["torch"]
    assert_same(saved(found, tmp_path), found)


def test_coalition_perturbation(model, x, tmp_path):
    method = CoalitionPerturbation(model)
    options = {"n_steps": 4, "n_coalitions": 4}
    found = explain(method, x, target=0, **options)
    maps, details = method.attribute(x, target=0, return_details=True, **options)
    assert torch.equal(found.attributions, maps)
    for name in ("coalitions", "losses", "n_steps", "n_evaluations"):
        assert same(found.details[name], getattr(details, name))
    assert found.settings == {**options, **details.settings}
    # Coalitions, the scores of the images and of the baselines, and the steps.
    assert found.n_forward == 1 + 2 + 4
    assert_same(saved(found, tmp_path), found)


def test_representative_interpretation(tmp_path):
    from tests.attr.representative.test_explainer import case, decisions

    c = case("conv")
    target = decisions(c, c.x)
    target[0] = (target[0] + 1) % 3
    found = explain(c.explainer, c.x, target=target)
    expected = c.explainer.attribute(c.x, target=target)
    assert torch.equal(found.attributions, expected)
    assert found.details["predicted"].tolist() == decisions(c, c.x)
    references = torch.tensor(decisions(c, c.references))
    for row in range(1, len(c.x)):
        one = c.explainer.interpret(c.x[row : row + 1])
        assert torch.equal(found.details["covered"][row], one.covered)
        assert float(found.details["purity"][row]) == pytest.approx(one.purity)
        taken_at = found.details["boundaries"][row]
        assert sorted(taken_at.tolist()) == sorted(one.boundaries.reference.tolist())
        assert not found.details["own_boundary"][row]
    # Under the polytope of a reference that is predicted as the target.
    within = references[found.details["covered"][0]] == target[0]
    assert within.any()
    assert float(found.details["purity"][0]) == pytest.approx(
        float(within.double().mean())
    )
    assert found.settings["layer"] == "1"
    assert found.settings["n_references"] == len(c.references)
    # The second is of those that cover too few to have no gradient of their own.
    assert (found.details["representativeness"] < 1).all()
    assert found.n_forward == 2
    assert_same(saved(found, tmp_path), found)


def test_without_a_polytope_everything_is_covered():
    from tests.attr.representative.test_explainer import case

    c = case("conv")
    alone = RepresentativeInterpretation(c.model, c.model[1]).fit(c.references[:1])
    with pytest.warns(UserWarning, match="own boundary"):
        found = explain(alone, c.x, target=1)
    details = found.details
    assert details["own_boundary"].any()
    for row, own in enumerate(details["own_boundary"].tolist()):
        assert len(details["boundaries"][row]) == (0 if own else 1)
        assert not own or details["covered"][row].tolist() == [0]


def test_methods_of_captum(model, x, tmp_path):
    grad_cam = explain(LayerGradCam(model, model[2]), x, target=[1, 2])
    expected = LayerGradCam(model, model[2]).attribute(x, target=[1, 2])
    assert torch.equal(grad_cam.attributions, expected)
    assert not grad_cam.attributions.requires_grad
    assert grad_cam.settings == {"layer": "2"} and grad_cam.details == {}
    assert grad_cam.target == [1, 2] and grad_cam.n_forward == 1
    assert_same(saved(grad_cam, tmp_path), grad_cam)

    method = IntegratedGradients(model)
    options = {"n_steps": 6, "return_convergence_delta": True}
    gradients = explain(method, x, target=1, **options)
    maps, delta = method.attribute(x, target=1, **options)
    assert torch.equal(gradients.attributions, maps)
    assert torch.equal(gradients.details["convergence_delta"], delta)
    assert gradients.settings == options

    tunnel = explain(NoiseTunnel(IntegratedGradients(model)), x, target=1, n_steps=3)
    assert tunnel.method == "NoiseTunnel(IntegratedGradients)"


def test_functions_and_tuples(tmp_path):
    a, b = models.rows(2), models.rows(2, seed=9)[:, :3]
    net = models.tabular(8)

    def joined(s, t):
        return net(torch.cat([s, t], dim=1))

    method = MarginSaliency(joined)
    found = explain(method, (a, b), target=[1, 2], n_evaluations=300)
    expected = method.attribute((a, b), target=[1, 2], n_evaluations=300)
    assert same(found.attributions, expected) and same(found.inputs, (a, b))
    assert found.n_forward == 1 + 2**8
    assert method.forward_func is joined
    again = saved(found, tmp_path)
    assert_same(again, found)
    with pytest.raises(ValueError, match="expected one input of images"):
        again.plot()
    (one,) = explain(MarginSaliency(net), (torch.cat([a, b], 1),), 1).attributions
    assert one.shape == (2, 8)


def test_what_was_explained_stays(model):
    x = models.images()
    target = torch.tensor([1, 2])
    found = explain(LayerGradCam(model, model[2]), x, target=target)
    before = x.clone()
    x.zero_()
    target.zero_()
    assert torch.equal(found.inputs, before) and found.target.tolist() == [1, 2]


def test_settings_that_cannot_be_saved_are_described(model, x, tmp_path):
    def noise(inputs):
        return inputs

    class Method:
        forward_func, layer = None, None

        def attribute(self, inputs, target=None, **options):
            return inputs * 2

    found = explain(
        Method(), x, perturb=noise, model=model, device=x.device, many=[noise]
    )
    assert found.settings["perturb"].endswith("noise")
    assert found.settings["model"] == "Sequential"
    assert found.settings["device"] == "device"
    assert found.settings["many"] == [found.settings["perturb"]]
    assert found.n_forward is None
    assert_same(saved(found, tmp_path), found)


def test_wrong_methods(model, x):
    with pytest.raises(TypeError, match=r"expected a method with attribute\(\)"):
        explain(model, x)

    class Method:
        def attribute(self, inputs):
            return [inputs]

    with pytest.raises(TypeError, match="to return a tensor or a tuple"):
        explain(Method(), x)


def test_plot_draws_the_example_asked_for(x):
    maps = torch.zeros(2, 1, 12, 10)
    maps[1, 0, 3:6, 2:4] = 2.0
    found = Explanation(maps, [0, 1], "Method", inputs=x.clamp(0, 1))
    figure = found.plot(1, title="the second")
    image, heat = (axis.images[0].get_array() for axis in figure.axes[:2])
    expected = 255 * x[1].clamp(0, 1).permute(1, 2, 0)
    np.testing.assert_allclose(image, expected, atol=1)
    strongest = np.unravel_index(np.asarray(heat).argmax(), heat.shape)
    assert 6 <= strongest[0] < 12 and 4 <= strongest[1] < 8
    assert figure.get_suptitle() == "the second"
    assert figure.axes[0].get_ylabel() == "Method"
    with pytest.raises(IndexError, match="below 2"):
        found.plot(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_of_zeros_are_drawn(x, dtype):
    found = Explanation(torch.zeros(2, 1, 6, 5, dtype=dtype), 1, "Method", inputs=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = found.plot(0)
        figure.savefig(io.BytesIO())
    assert figure.axes[1].get_xlabel() == "nothing positive"
    again = found.plot(-1, sign="all")
    assert again.axes[1].get_xlabel() == "the map is zero"


def test_pictures_and_numbers_need_the_inputs(model, x, tmp_path):
    found = explain(LayerGradCam(model, model[2]), x, target=1)
    small = saved(dataclasses.replace(found, inputs=None), tmp_path)
    for call in (small.plot, lambda **k: small.evaluate(model, **k)):
        with pytest.raises(ValueError, match="pass inputs="):
            call()
        with pytest.raises(ValueError, match="expected the 2 inputs"):
            call(inputs=x[:1])
    assert len(small.plot(inputs=x).axes) == 3
    a, b = small.evaluate(model, inputs=x).numbers, found.evaluate(model).numbers
    assert same(a, b)


def test_evaluate_is_all_metrics_on_the_map_enlarged(model, x):
    target = [1, 3]
    method = LayerGradCam(model, model[0])
    found = explain(method, x, target=target, attr_dim_summation=False)
    maps = method.attribute(x, target=target).detach()
    maps = LayerAttribution.interpolate(maps, (24, 20), "bilinear")
    numbers = found.evaluate(model).numbers
    curves = insertion_deletion(model, x, maps, target)
    drop = average_drop(model, x, maps, target)
    region = smallest_region(model, x, maps, target)
    expected = {
        "insertion_auc": curves.insertion_auc,
        "deletion_auc": curves.deletion_auc,
        "drop": drop.drop,
        "increase": drop.increase.to(torch.float64),
        "mask_mean": drop.mask_mean,
        "smallest_region": region.fraction,
    }
    assert list(numbers) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(numbers[name], values, equal_nan=True)


def test_curves_are_drawn_beside_the_map(model, x):
    found = explain(LayerGradCam(model, model[2]), x, target=1)
    result = found.evaluate(model)
    figure = found.plot(1, evaluation=result)
    lines = figure.axes[3].get_lines()
    heights = [line.get_ydata() for line in lines]
    np.testing.assert_allclose(heights[0], result.insertion_deletion.insertion[1])
    np.testing.assert_allclose(heights[1], result.insertion_deletion.deletion[1])


def test_one_line(x):
    text = repr(Explanation(x, 1, "Method", n_forward=7, seconds=0.5))
    assert text == "Explanation(Method of (2, 3, 24, 20), n_forward=7, seconds=0.50)"
