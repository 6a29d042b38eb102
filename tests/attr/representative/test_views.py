"""What users look at: pictures, progress, warnings, and banks asked for a class."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from captum_margin.attr import RepresentativeInterpretation
from captum_margin.attr.representative import boundaries
from tests.attr.representative.test_explainer import (
    DOUBLE,
    case,
    examples,
    explainer,
    net,
)
from tests.reference import representative_reference as oracle


def grey(references):
    """A fitted explainer of grey images, and one interpretation of a reference."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()
    )
    model.append(torch.nn.Linear(4 * 36, 3)).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data = drawn.to(parameter)
    fitted = RepresentativeInterpretation(model, model[1])
    return fitted.fit(references, seed=1)


@pytest.fixture
def references():
    generator = torch.Generator().manual_seed(2)
    return torch.rand(60, 1, 8, 8, generator=generator).double()


def test_the_picture_shows_the_image_its_like_and_their_maps(references):
    fitted = grey(references)
    unseen = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(9)).double()
    one = fitted.interpret(unseen)
    figure = one.plot(k=3, mean=[0.25], std=[0.5])
    similar = one.similar(3)
    assert len(similar.indices) == 3
    shown = torch.cat([unseen, references[similar.indices]])
    maps = one.attribute(shown, relu_attributions=True)[:, 0].float()
    upper, lower = np.array(figure.axes).reshape(2, 4)
    for column, (axis, index) in enumerate(
        zip(upper, [None, *similar.indices], strict=True)
    ):
        pixels = (shown[column, 0] * 0.5 + 0.25).clamp(0, 1)
        (image,) = axis.images
        np.testing.assert_allclose(image.get_array(), pixels, rtol=1e-6)
        title = f"class {one.predicted}" if index is None else f"reference {index}"
        assert title in axis.get_title()
        blended = lower[column].images
        np.testing.assert_allclose(blended[0].get_array(), pixels, rtol=1e-6)
        enlarged = torch.nn.functional.interpolate(
            maps[column][None, None], size=(8, 8), mode="bilinear"
        )[0, 0]
        expected = enlarged / enlarged.max()
        np.testing.assert_allclose(blended[1].get_array(), expected, rtol=1e-5)
    assert figure._repr_png_().startswith(b"\x89PNG")  # a notebook shows it


def test_a_bank_draws_its_references_and_a_loaded_state_needs_them(references):
    fitted = grey(references)
    one = fitted.bank(1)[0]
    (center,) = (one.covered[one.similar(1).indices == one.covered]).tolist()
    figure = one.plot(k=2)
    pixels = references[center, 0]
    expected = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    assert f"reference {center}\n" not in "".join(a.get_title() for a in figure.axes)

    loaded = RepresentativeInterpretation(fitted.forward_func, fitted.layer)
    loaded.load_state_dict(fitted.state_dict())
    again = loaded.interpret(references[:1])
    with pytest.raises(ValueError, match="references"):
        again.plot()
    assert len(again.plot(k=2, references=references).axes) == 6


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda one, images: one.plot(mean=[0.5]), "mean and std"),
        (lambda one, images: one.plot(k=0), "k of at least 1"),
    ],
)
def test_what_cannot_be_drawn(references, draw, match):
    one = grey(references).interpret(references[:1])
    with pytest.raises(ValueError, match=match):
        draw(one, references)


def test_rows_and_flat_layers_have_no_picture():
    c = case("flat")
    with pytest.raises(ValueError, match="images"):
        c.explainer.interpret(c.x[:1]).plot()


def test_a_bank_asked_for_a_class_answers_with_it():
    c = case("conv")
    bank, x = c.explainer.bank(2), examples("conv", 20, 9)
    classes = torch.tensor([one.predicted for one in bank])
    covers = torch.stack([one.covers(x) for one in bank], dim=1)
    target = torch.arange(20) % len(classes.unique())
    which, covered = bank.assign(x, target)
    with torch.no_grad():
        psi = c.model[:2](x).numpy()
    for i, asked in enumerate(target.tolist()):
        allowed = (classes == asked).nonzero()[:, 0]
        inside = allowed[covers[i, allowed]]
        assert covered[i] == (len(inside) > 0)
        if covered[i]:
            assert which[i] == inside[0]
            continue
        gaps = [
            sum(
                abs(np.sum(w * (psi[i] - c.psi[m])))
                for w in c.explainer.state_dict()["weight"].numpy()
            )
            for m in bank.centers[allowed].tolist()
        ]
        assert which[i] == allowed[int(np.argmin(gaps))]
    assert (~covered).any() and covered.any()
    maps = bank.attribute(x, target)
    for i in range(20):
        expected = bank[int(which[i])].attribute(x[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], expected, **DOUBLE)
    assert (
        bank.assign(x, 1).which.tolist() == bank.assign(x, target * 0 + 1)[0].tolist()
    )
    with pytest.raises(ValueError, match=r"\[99\]"):
        bank.attribute(x, 99)


def test_probabilities_are_warned_of(references):
    logits = grey(references).forward_func
    soft = torch.nn.Sequential(*logits, torch.nn.Softmax(dim=1))
    fitted = RepresentativeInterpretation(soft, soft[1])
    with pytest.warns(UserWarning, match="return logits"):
        fitted.fit(references, seed=1)


def test_progress_counts_references_and_boundaries(references, capsys):
    fitted = grey(references)
    assert capsys.readouterr().err == ""
    fitted.fit(references, n_boundaries=7, show_progress=True)
    shown = capsys.readouterr().err
    assert "Representative Interpretation fit" in shown and "67/67" in shown


def test_intervals_of_a_bank_that_covers_nothing():
    bank, x = case("conv").explainer.bank(2), examples("conv", 30, 9)
    alone = x[~bank.assign(x).covered]
    n, report = len(alone), bank.evaluate(alone)
    assert n > 0
    assert (report.n, report.n_covered, report.purity) == (n, 0, 0.0)
    assert report.purity_interval == (0.0, 1.0)
    found = report.coverage_interval
    np.testing.assert_allclose(found, oracle.wilson(0, n), atol=1e-12)


def test_a_bank_is_evaluated_with_the_models_other_arguments(references):
    plain = grey(references)
    model = plain.forward_func
    factor = torch.linspace(0.5, 2, 60).double()[:, None]
    scaled = RepresentativeInterpretation(
        lambda x, f: model(x * f[..., None, None]), model[1]
    )
    scaled.fit(references, factor, seed=1)
    expected = plain.fit(references * factor[..., None, None], seed=1).bank(2)
    held_out = references.flip(0)
    found = scaled.bank(2).evaluate(held_out, factor.flip(0), batch_size=7)
    assert found == expected.evaluate(held_out * factor.flip(0)[..., None, None])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_linearization_error(activation):
    model, references = net("flat", activation), examples("flat", 40, 0)
    fitted = explainer(model, references, n_boundaries=13)
    state = fitted.state_dict()
    psi = model[:2](references[state["reference"]]).detach()

    def decision(value):
        return oracle.margin(model[2:](torch.as_tensor(value)).detach())

    signs = boundaries.random_signs(psi.shape[1:]).double().numpy()
    assert set(signs.tolist()) == {-1.0, 1.0}
    weight = state["weight"].numpy()
    error = oracle.linearization_error(decision, weight, psi.numpy(), signs)
    assert fitted.linearization_error == pytest.approx(error, rel=1e-6, abs=1e-12)
    if activation is nn.ReLU:
        assert error < 1e-12
    else:
        assert error > 1e-4


def test_a_normalisation_is_not_linear():
    """Scaling the feature map as a whole, as one might test it, would not show it."""
    model, references = net("flat"), examples("flat", 40, 0)
    normed = nn.Sequential(*model[:2], nn.LayerNorm(8).double(), *model[2:])
    assert explainer(model, references).linearization_error < 1e-12
    assert explainer(normed, references).linearization_error > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_the_same_maps():
    c = case("conv")
    model = copy.deepcopy(c.model).cuda()
    fitted = explainer(model, c.references)  # they are moved batch by batch
    assert fitted.state_dict()["weight"].device.type == "cpu"
    x, target = c.x.cuda(), [0, 1, 2, 0, 1, 2]
    maps = fitted.attribute(x, target=target)
    assert maps.is_cuda
    torch.testing.assert_close(maps.cpu(), c.explainer.attribute(c.x, target), **DOUBLE)
    one, same = fitted.interpret(x[:1]), c.explainer.interpret(c.x[:1])
    assert one.covered.tolist() == same.covered.tolist()
    assert one.covers(x).tolist() == same.covers(c.x).tolist()
    torch.testing.assert_close(one.attribute(x).cpu(), same.attribute(c.x), **DOUBLE)
    bank, expected = fitted.bank(2), c.explainer.bank(2)
    assert bank.evaluate(c.x) == expected.evaluate(c.x)
    maps = bank.attribute(x, torch.tensor(target).cuda())
    torch.testing.assert_close(
        maps.cpu(), expected.attribute(c.x, torch.tensor(target)), **DOUBLE
    )
    loaded = RepresentativeInterpretation(model, model[1])
    loaded.load_state_dict(c.explainer.state_dict())
    found = loaded.attribute(x, target=target)
    torch.testing.assert_close(
        found.cpu(), c.explainer.attribute(c.x, target), **DOUBLE
    )


class KeptOut(torch.nn.Module):
    """A head that does not look at one channel."""

    def forward(self, values):
        return values[:, :1].flatten(1)[:, :3]


def test_nan_that_the_outputs_do_not_show(references):
    below = torch.nn.Conv2d(1, 4, 3).double()
    below.bias.data[3] = torch.nan
    model = torch.nn.Sequential(below, KeptOut())
    with pytest.raises(ValueError, match="feature maps of references 0 to 31"):
        RepresentativeInterpretation(model, below).fit(references, seed=0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda e, x: e.bank(1).attribute(x, torch.tensor([0, 1])), ValueError, "2"),
        (lambda e, x: e.fit(x, n_boundaries=2.5), ValueError, "whole"),
        (
            lambda e, x: RepresentativeInterpretation(e.forward_func, "1").fit(x),
            TypeError,
            "get_submodule",
        ),
    ],
)
def test_clear_errors(references, call, error, match):
    with pytest.raises(error, match=match):
        call(grey(references), references)
