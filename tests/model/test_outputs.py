"""Outputs that are no logits of one choice get no softmax in silence."""

import warnings

import pytest
import torch

from captum_margin._model.outputs import SoftmaxWatch
from captum_margin.attr import CoalitionPerturbation, MarginSaliency
from captum_margin.metrics import average_drop, evaluate, insertion_deletion
from tests.helpers import models

KEYWORD = "pass softmax=False"
SIGMOIDS = "lie between 0 and 1 and do not sum to 1"


def halves(x):
    """Of the brightness (0 to 1) of the left half, and of the right."""
    left, right = x[..., :16].mean((1, 2, 3)), x[..., 16:].mean((1, 2, 3))
    return torch.stack([left, right], dim=1)


def shares(x):
    return halves(x).softmax(dim=1)


def image():
    found = 0.2 + 0.2 * models.images(1, 3, 32, 32, dtype=torch.float32)
    found[..., :16] += 0.5
    return found


def saliency(model, **options):
    return MarginSaliency(model).attribute(image(), target=0, **options)


ENTRIES = {
    "saliency": lambda m, **o: saliency(m, n_evaluations=60, **o),
    "rounds": lambda m, **o: saliency(m, n_evaluations=200, **o),
    "features": lambda m, **o: saliency(
        m, n_evaluations=60, feature_mask=models.tiles(32, 32, 8), **o
    ),
    "one copy a pass": lambda m, **o: saliency(
        m, n_evaluations=60, perturbations_per_eval=1, **o
    ),
    "coalition": lambda m, **o: CoalitionPerturbation(m).attribute(
        image(), 0.05, 0, feature_mask=models.tiles(32, 32, 8), **o
    ),
    "curves": lambda m, **o: insertion_deletion(m, image(), image(), 0, **o),
    "drop": lambda m, **o: average_drop(
        m, image().expand(8, -1, -1, -1), image().expand(8, -1, -1, -1), 0, **o
    ),
    "all": lambda m, **o: evaluate(m, image(), image(), 0, **o),
}
over_entries = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


@over_entries
@pytest.mark.parametrize(
    ("model", "words"), [(halves, SIGMOIDS), (shares, "probabilities already")]
)
def test_what_is_between_0_and_1_warns_once(entry, model, words):
    with pytest.warns(UserWarning, match="the model's outputs") as seen:
        entry(model)
    told = [str(w.message) for w in seen if KEYWORD in str(w.message)]
    assert len(told) == 1 and words in told[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the model's outputs")
        entry(model, softmax=False)


@over_entries
def test_logits_do_not_warn(entry):
    for shift in (-3.0, 0.5, 4.0):  # of either sign, and all above 0
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            entry(lambda x, shift=shift: 4 * halves(x) + shift)
        told = [str(w.message) for w in seen if "the model's outputs" in str(w.message)]
        assert told == []


def test_the_keyword_gives_the_output_itself():
    options = {"n_evaluations": 400, "baselines": 0.0}
    found = saliency(halves, softmax=False, **options)[0, 0]
    # The output ignores the right half, which the softmax would count against it.
    assert found[:, 18:].abs().mean() < 0.1 * found[:, :14].mean()
    with pytest.warns(UserWarning, match=SIGMOIDS):
        squashed = saliency(halves, **options)[0, 0]
    assert squashed[:, 18:].mean() < -0.2 * squashed[:, :14].mean()


def test_few_values_between_0_and_1_are_chance():
    watch = SoftmaxWatch()
    watch.note(torch.full((15, 2), 0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.warn()
    watch.note(torch.full((1, 2), 0.7))
    with pytest.warns(UserWarning, match=SIGMOIDS):
        watch.warn()
    watch.note(torch.tensor([[0.7, 1.1]]))  # one value beyond will do
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.warn()


def test_small_logits_behind_a_rectifier_do_not_warn():
    watch = SoftmaxWatch()
    rectified = (0.3 * torch.linspace(-1, 3, 400).view(100, 4)).relu()
    watch.note(rectified)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.warn()
    # Without the zeros of the rectifier nothing tells them from shares.
    watch = SoftmaxWatch()
    watch.note(rectified[rectified > 0].view(-1, 4))
    with pytest.warns(UserWarning, match=SIGMOIDS):
        watch.warn()


def test_a_saturated_softmax_is_named_where_the_map_is_empty():
    def prices(x):
        return 1e5 * halves(x) + torch.tensor([1e6, 0.0])

    with pytest.warns(UserWarning, match=r"get no softmax \(softmax=False\)"):
        assert not saliency(prices, n_evaluations=60).any()
    assert saliency(prices, n_evaluations=60, softmax=False).any()
