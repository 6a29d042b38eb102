"""What Captum promises of an attribution method, and what its tools need of one."""

import copy
import io
import pickle
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max

from captum_margin.attr import MarginSaliency
from tests.helpers import models

SAME = {"rtol": 1e-8, "atol": 1e-11}
TILES = models.tiles(24, 20, 5)
TWO_MASKS = torch.stack([TILES, models.tiles(24, 20, 7)])[:, None]
FORMS = {
    "soft unions": {},
    "unions": {"feature_mask": TILES[None, None]},
    "a mask each": {"feature_mask": TWO_MASKS},
    "regions": {"feature_mask": TWO_MASKS, "domain": "regions"},
    "paper": {"paper": True},
}
over_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def explain(model, x, form=None, **options):
    options = {"target": 1, "n_evaluations": 33, **(form or {}), **options}
    return MarginSaliency(model).attribute(x, **options)


def perturb(inputs):
    noise = tuple(0.01 * torch.randn_like(tensor) for tensor in inputs)
    return noise, tuple(t - n for t, n in zip(inputs, noise, strict=True))


@over_forms
def test_noise_tunnel(form):
    x, model = models.images(), models.conv()
    tunnel = NoiseTunnel(MarginSaliency(model))
    options = {"target": [1, 3], "n_evaluations": 33, **form}
    still = tunnel.attribute(x, nt_samples=2, stdevs=0.0, **options)
    # The tunnel works in float32.
    expected = explain(model, x, form, target=[1, 3])
    scale = float(expected.abs().max())
    torch.testing.assert_close(still, expected, rtol=1e-3, atol=1e-3 * scale)
    noisy = tunnel.attribute(
        x,
        nt_type="vargrad",
        nt_samples=3,
        nt_samples_batch_size=2,
        stdevs=0.1,
        **options,
    )
    assert noisy.shape == x.shape and noisy.isfinite().all() and noisy.any()


@over_forms
def test_sensitivity_max(form):
    x, model = models.images(), models.conv()
    options = {"target": [1, 3], "n_evaluations": 33, **form}
    explainer = MarginSaliency(model)
    still = sensitivity_max(
        explainer.attribute, x, lambda t, r: t, n_perturb_samples=3, **options
    )
    # No change, no difference: each copy is explained with its own mask and target.
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-6)
    moved = sensitivity_max(explainer.attribute, x, n_perturb_samples=2, **options)
    assert moved.shape == (2,) and moved.isfinite().all()


def test_infidelity():
    x, model = models.images(), models.conv()
    found = explain(model, x)
    value = infidelity(model, perturb_inputs, x, found, target=1, normalize=True)
    assert value.shape == (2,) and value.isfinite().all()


def perturb_inputs(inputs):
    noise = 0.05 * torch.randn_like(inputs)
    return noise, inputs - noise


def test_infidelity_of_a_linear_model_is_zero():
    x, weights = models.rows(3), models.rows(5, 2, seed=8)

    def model(t):
        return t @ weights

    def to_zero(t):
        return torch.ones_like(t), torch.zeros_like(t)

    found = explain(model, x, softmax=False)
    value = infidelity(model, to_zero, x, found, target=1)
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-18)


@pytest.mark.parametrize("channels", [1, 3])
def test_visualize_image_attr(channels):
    import matplotlib.pyplot as plt

    x, model = models.images(1, channels), models.conv(channels)
    found = explain(model, x)
    attribution, image = (t[0].permute(1, 2, 0).numpy() for t in (found, x))
    figure, axis = viz.visualize_image_attr(
        attribution, image.clip(0, 1), "heat_map", "all", use_pyplot=False
    )
    drawn = np.asarray(axis.images[0].get_array(), dtype=float)
    plt.close(figure)
    # Captum sums the channels, scales by an outlier threshold and clips.
    shown, summed = drawn[abs(drawn) < 1], attribution.sum(axis=2)[abs(drawn) < 1]
    scale = (summed @ shown) / (shown @ shown)
    np.testing.assert_allclose(summed, scale * shown, rtol=1e-6, atol=1e-9)


def test_target_forms():
    x, model = models.images(), models.conv()
    expected = explain(model, x, target=1)
    same = [-3, torch.tensor(1), torch.tensor([1]), torch.tensor([1, 1]), (1,)]
    for target in [*same, [1, 1], [(1,), (1,)]]:
        assert torch.equal(explain(model, x, target=target), expected)
    for target in ([3, 1], torch.tensor([3, 1]), [(3,), (1,)]):
        found = explain(model, x, target=target)
        torch.testing.assert_close(found[1:], expected[1:], **SAME)
        own = explain(model, x[:1], target=3)
        torch.testing.assert_close(found[:1], own, **SAME)


@pytest.mark.parametrize(
    "target, error",
    [
        (None, AssertionError),
        ("1", AssertionError),
        ([1, 2, 3], AssertionError),
        (torch.tensor([1, 2, 3]), AssertionError),
        (torch.tensor([[1], [1]]), AssertionError),
        ((9999,) * 20, AssertionError),
        (4, ValueError),
        (-5, ValueError),
        ([0, 4], ValueError),
    ],
)
def test_wrong_targets(target, error):
    with pytest.raises(error):
        explain(models.conv(), models.images(), target=target)


def test_outputs_with_more_axes():
    x, model = models.rows(3), models.tabular()

    def pairs(t):
        return model(t)[:, :, None] * torch.tensor([1.0, -2.0])

    found = explain(pairs, x, target=[(0, 1), (2, 0), (1, 1)])
    logits = explain(model, x, target=[0, 2, 1], softmax=False)
    factors = torch.tensor([[-2.0], [1.0], [-2.0]])
    torch.testing.assert_close(found, factors * logits, **SAME)


@over_forms
def test_forward_arguments_go_with_their_example(form):
    x, factor = models.images(), torch.tensor([0.5, 2.0], dtype=torch.float64)
    model = models.Scaled(models.conv())
    found = explain(model, x, form, additional_forward_args=(factor, 2))
    for example in range(2):
        own = {
            name: v[example : example + 1] if name == "feature_mask" and len(v) > 1
            else v
            for name, v in form.items()
        }  # fmt: skip
        expected = explain(
            lambda t, e=example: model.model(t) * factor[e] ** 2,
            x[example : example + 1],
            own,
        )
        torch.testing.assert_close(found[example : example + 1], expected, **SAME)


@over_forms
def test_perturbations_per_eval_changes_nothing(form):
    x, model = models.images(), models.conv()
    expected = explain(model, x, form, perturbations_per_eval=16)
    assert expected.any()
    for per_eval in (1, 3, 1000):
        found = explain(model, x, form, perturbations_per_eval=per_eval)
        torch.testing.assert_close(found, expected, **SAME)


@over_forms
def test_a_batch_is_its_examples(form):
    x, model = models.images(), models.conv()
    found = explain(model, x, form, target=[2, 0])
    for example, target in enumerate([2, 0]):
        own = dict(form)
        if "feature_mask" in own and len(own["feature_mask"]) > 1:
            own["feature_mask"] = own["feature_mask"][example : example + 1]
        alone = explain(model, x[example : example + 1], own, target=target)
        torch.testing.assert_close(found[example : example + 1], alone, **SAME)


@over_forms
def test_the_seed_decides_alone(form):
    x, model = models.images(), models.conv()
    state = torch.get_rng_state()
    found = explain(model, x, form, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(17)
    assert torch.equal(explain(model, x, form, seed=3), found)
    differs = not torch.equal(explain(model, x, form, seed=4), found)
    assert differs == ("domain" not in form and "paper" not in form)


@over_forms
@pytest.mark.parametrize("n_evaluations", [16, 33, 100])
def test_forward_passes_are_counted_and_bounded(form, n_evaluations):
    x, model = models.images(), models.Counted(models.conv())
    _, details = explain(
        model,
        x,
        form,
        n_evaluations=n_evaluations,
        perturbations_per_eval=5,
        return_details=True,
    )
    passes = [sum(len(s.scores) for s in stages) for stages in details.stages]
    assert model.rows == 2 + sum(passes)
    assert details.n_forward == 1 + max(passes)
    assert model.largest <= 5 * 2
    assert model.calls == details_calls(details, form)
    if "domain" not in form and "paper" not in form:
        assert details.n_forward <= n_evaluations


def details_calls(details, form):
    """One call for the examples; then every call but the last of a round is full."""
    rounds = [sum(len(s.scores) for stages in details.stages for s in stages)]
    if not form:
        rounds = [
            sum(len(s[r].scores) for s in details.stages)
            for r in range(len(details.stages[0]))
        ]
    return 1 + sum(-(-n // 10) for n in rounds)


def test_details():
    x, model = models.images(), models.conv()
    found, details = explain(model, x, return_details=True, target=[1, 2])
    assert torch.equal(found, explain(model, x, target=[1, 2]))
    expected = model(x).softmax(dim=1)[[0, 1], [1, 2]]
    torch.testing.assert_close(details.scores, expected.detach())
    names = "domain n_evaluations signed sided paper softmax prior deletion seed"
    assert details.settings.keys() == set(names.split())


@over_forms
def test_show_progress_reaches_its_total(form):
    x, model = models.images(), models.conv()
    shown = io.StringIO()
    with redirect_stderr(shown):
        _, details = explain(model, x, form, show_progress=True, return_details=True)
    total = sum(len(s.scores) for stages in details.stages for s in stages)
    assert "Margin Saliency attribution" in shown.getvalue()
    assert f"{total}/{total}" in shown.getvalue()
    quiet = io.StringIO()
    with redirect_stderr(quiet):
        explain(model, x, form)
    assert quiet.getvalue() == ""


def test_copies_of_the_explainer():
    x, model = models.images(), models.conv()
    explainer = MarginSaliency(model)
    found = explainer.attribute(x, target=0, n_evaluations=20)
    for other in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        assert torch.equal(other.attribute(x, target=0, n_evaluations=20), found)


def test_no_future():
    with pytest.raises(NotImplementedError, match="MarginSaliency"):
        MarginSaliency(models.conv()).attribute_future()
