"""What is drawn, panel by panel, against values known beforehand."""

import io
import warnings
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from captum_margin.metrics import insertion_deletion
from captum_margin.viz import visualize_comparison

SIGNS = ["positive", "negative", "absolute_value", "all"]


@pytest.fixture
def image():
    return torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def drawn(axis, layer=0):
    """The array behind a picture on an axis."""
    return np.asarray(axis.images[layer].get_array())


def assert_shows(axis, expected):
    """Captum draws colours as integers from 0 to 255, rounded down."""
    np.testing.assert_allclose(drawn(axis) / 255, expected, atol=1.001 / 255)


def curves_of(insertion, deletion):
    insertion, deletion = torch.tensor(insertion), torch.tensor(deletion)
    return SimpleNamespace(
        fractions=torch.linspace(0, 1, len(insertion)),
        insertion=insertion[None],
        deletion=deletion[None],
        insertion_auc=insertion.mean()[None],
        deletion_auc=deletion.mean()[None],
    )


def test_one_row_per_method_in_the_given_order(image):
    maps = {"b": image, "a": image, "c": image}
    figure, axes = visualize_comparison(image, maps, title="three methods")
    assert axes.shape == (3, 3)
    assert [row[0].get_ylabel() for row in axes] == ["b", "a", "c"]
    headings = [axis.get_title() for axis in axes[0]]
    assert headings == ["image", "heat map", "overlay"]
    assert figure.get_suptitle() == "three methods"


def test_heat_map_is_the_sum_over_channels_on_the_scale_of_its_maximum(image):
    attribution = image - 0.5
    _, axes = visualize_comparison(image, attribution, outlier_perc=0)
    summed = attribution[0].sum(dim=0).clamp(min=0)
    expected = (summed / summed.max()).numpy()
    np.testing.assert_allclose(drawn(axes[0, 1]), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(drawn(axes[0, 2], 1), expected, rtol=1e-6, atol=1e-7)
    grey = image[0].mean(dim=0).numpy()
    np.testing.assert_allclose(drawn(axes[0, 2]) / 255, grey, atol=1.001 / 255)


@pytest.mark.parametrize("sign", SIGNS)
def test_signs_select_their_part(image, sign):
    values = np.linspace(-1, 2, 12 * 16).reshape(12, 16)
    select = {
        "positive": lambda v: v.clip(min=0) / 2,
        "negative": lambda v: -v.clip(max=0),
        "absolute_value": lambda v: np.abs(v) / 2,
        "all": lambda v: v / 2,
    }
    _, axes = visualize_comparison(image, values, sign=sign, outlier_perc=0)
    np.testing.assert_allclose(drawn(axes[0, 1]), select[sign](values), atol=1e-12)


def test_normalisation_is_undone_with_mean_and_std(image):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    constants = (torch.tensor(c)[:, None, None] for c in (mean, std))
    shift, scale = constants
    _, axes = visualize_comparison((image - shift) / scale, image, mean=mean, std=std)
    expected = image[0].permute(1, 2, 0).numpy()
    assert_shows(axes[0, 0], expected)


def test_unknown_normalisation_is_stretched_to_the_unit_interval(image):
    _, axes = visualize_comparison(image * 7 - 3, image)
    expected = (image - image.min()) / (image.max() - image.min())
    assert_shows(axes[0, 0], expected[0].permute(1, 2, 0).numpy())


def test_forms_of_one_image_are_drawn_alike(image):
    integers = (image[0] * 255).round().to(torch.uint8)
    array = integers.permute(1, 2, 0).numpy()
    for form in (integers, integers[None], array, array / 255):
        _, axes = visualize_comparison(form, image)
        assert_shows(axes[0, 0], array / 255)


@pytest.mark.parametrize("shape", [(1, 1, 12, 16), (1, 12, 16), (12, 16)])
def test_grey_images_stay_grey(shape):
    grey = torch.linspace(0, 1, 12 * 16)
    _, axes = visualize_comparison(grey.reshape(shape), grey.reshape(shape))
    expected = np.repeat(grey.reshape(12, 16, 1).numpy(), 3, axis=2)
    assert_shows(axes[0, 0], expected)


def test_small_maps_are_upsampled_bilinearly(image):
    coarse = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]], dtype=torch.float64)
    _, axes = visualize_comparison(image, coarse, outlier_perc=0)
    expected = torch.nn.functional.interpolate(coarse, (12, 16), mode="bilinear")
    np.testing.assert_allclose(drawn(axes[0, 1]), expected[0, 0] / 4, atol=1e-12)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-12, -1e20])
def test_constant_maps_of_any_size_are_drawn_without_a_warning(image, sign, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = visualize_comparison(
            image, torch.full((1, 1, 3, 4), value), sign=sign
        )
        figure.savefig(io.BytesIO())
    part = {"positive": max(value, 0), "negative": min(value, 0)}.get(sign, value)
    extreme = np.sign(part) if sign == "all" else abs(np.sign(part))
    np.testing.assert_array_equal(drawn(axes[0, 1]), np.full((12, 16), extreme))
    signed = sign in ("positive", "negative")
    note = f"nothing {sign}" if signed else "the map is zero"
    assert axes[0, 1].get_xlabel() == ("" if part else note)


def test_constant_images_are_drawn():
    for value in (0.0, 0.5, 300.0, -2.0):
        figure, axes = visualize_comparison(torch.full((3, 8, 8), value), torch.eye(8))
        figure.savefig(io.BytesIO())
        assert np.isfinite(drawn(axes[0, 0])).all()


def test_curves_are_drawn_as_measured_on_one_scale(image):
    first = curves_of([0.0, 0.5, 0.9], [0.9, 0.2, 0.1])
    second = curves_of([0.1, 0.2, 0.3], [0.3, 0.2, 0.0])
    maps = {"first": image, "none": image, "second": image}
    _, axes = visualize_comparison(
        image, maps, curves={"first": first, "second": second}
    )
    assert axes.shape == (3, 4)
    insertion, deletion = axes[0, 3].lines
    np.testing.assert_allclose(insertion.get_xydata()[:, 0], [0, 0.5, 1])
    np.testing.assert_allclose(insertion.get_xydata()[:, 1], [0, 0.5, 0.9], rtol=1e-6)
    np.testing.assert_allclose(deletion.get_xydata()[:, 1], [0.9, 0.2, 0.1], rtol=1e-6)
    legend = [text.get_text() for text in axes[0, 3].get_legend().get_texts()]
    assert legend == ["insertion 0.467", "deletion 0.400"]
    assert axes[0, 3].get_ylim() == axes[2, 3].get_ylim()
    assert not axes[1, 3].axison


def test_result_of_the_metric_is_drawn(image):
    result = insertion_deletion(
        lambda x: x.mean(dim=(1, 2, 3)), image, image, n_steps=4
    )
    _, axes = visualize_comparison(image, image, curves=result)
    expected = result.insertion[0].numpy()
    np.testing.assert_allclose(axes[0, 3].lines[0].get_ydata(), expected)


def test_nothing_global_changes_and_nothing_is_written_into_the_inputs(image):
    attribution = image - 0.5
    kept = image.clone(), attribution.clone()
    before = matplotlib.get_backend(), dict(matplotlib.rcParams), plt.get_fignums()
    visualize_comparison(image, attribution, mean=0.1, std=0.2)
    after = matplotlib.get_backend(), dict(matplotlib.rcParams), plt.get_fignums()
    assert before == after
    assert torch.equal(image, kept[0]) and torch.equal(attribution, kept[1])


def test_a_notebook_gets_a_picture_that_is_not_blank(image):
    figure, _ = visualize_comparison(image, image)
    pixels = np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))
    assert pixels.std() > 20


def test_half_precision_graph_attached_maps_are_drawn(image):
    attribution = image.bfloat16().requires_grad_() * 1
    _, axes = visualize_comparison(image.bfloat16(), attribution, outlier_perc=0)
    assert drawn(axes[0, 1]).max() == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": torch.rand(2, 3, 12, 16)}, ValueError, "of one image"),
        ({"image": torch.rand(2, 12, 16)}, ValueError, "1 or 3 channels"),
        ({"image": np.zeros((1, 12, 16, 3))}, ValueError, "of one image"),
        ({"image": "cat.jpg"}, TypeError, "expected image as a torch.Tensor"),
        ({"image": torch.full((3, 8, 8), torch.nan)}, ValueError, "finite values"),
        ({"attributions": {}}, ValueError, "at least one map"),
        ({"attributions": {"a": torch.rand(13, 16)}}, ValueError, "no larger than"),
        ({"attributions": {"a": [1.0]}}, TypeError, r"attributions\['a'\]"),
        ({"attributions": torch.rand(0, 12, 16)}, ValueError, "of one image"),
        ({"attributions": torch.full((8, 8), torch.inf)}, ValueError, "finite values"),
        ({"sign": "both"}, ValueError, "expected sign"),
        ({"outlier_perc": 100}, ValueError, "expected outlier_perc"),
        ({"mean": [0.1, 0.2]}, ValueError, "one per channel"),
        ({"curves": {"other": curves_of([0.0, 1.0], [1.0, 0.0])}}, ValueError, "names"),
    ],
)
def test_bad_arguments_say_what_was_expected(image, changes, error, message):
    arguments = {"image": image, "attributions": {"a": image}} | changes
    with pytest.raises(error, match=message):
        visualize_comparison(**arguments)


def test_curves_of_a_batch_or_without_names_are_refused(image):
    curves = curves_of([0.0, 1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="by the names"):
        visualize_comparison(image, {"a": image, "b": image}, curves=curves)
    curves.insertion = curves.insertion.expand(2, 2)
    with pytest.raises(ValueError, match="of one image"):
        visualize_comparison(image, image, curves=curves)
