"""What goes along with the examples, and what is said where the model disagrees."""

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

from captum_margin import PerExample, Shared
from captum_margin._model.captum import select_rows
from captum_margin.attr import (
    CoalitionPerturbation,
    MarginSaliency,
    RepresentativeInterpretation,
    last_conv_layer,
)
from captum_margin.metrics import average_drop, insertion_deletion, smallest_region
from tests.helpers import models

ROWS = torch.tensor([2, 0, 0, 1])


def of_rows(arg, n_examples=3):
    return select_rows(None, (arg,), ROWS, n_examples)[1][0]


def test_the_rule():
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(of_rows(values), values[ROWS])
    for arg in (values, [1, 2], np.ones(2), {"a": 1}, "abc", (1, 2, 3), 3, None):
        assert of_rows(arg, 4 if isinstance(arg, torch.Tensor) else 3) is arg
    assert of_rows(torch.tensor(3.0)) == 3.0
    shared = Shared(values)
    assert of_rows(shared) is shared
    for kind in (list, tuple):
        assert of_rows(PerExample(kind("abc"))).value == kind("caab")
    assert of_rows(PerExample(np.arange(3))).value.tolist() == ROWS.tolist()
    assert torch.equal(of_rows(PerExample(values)).value, values[ROWS])


@pytest.mark.parametrize("arg", [[1, 2, 3], np.ones((3, 2))], ids=["list", "array"])
def test_what_may_be_either_is_refused(arg):
    with pytest.raises(ValueError, match=r"args\[0\] as a tensor, or marked .* of 3"):
        of_rows(arg)
    assert of_rows(arg, n_examples=1) is arg


def test_a_value_for_each_example():
    with pytest.raises(ValueError, match="expected 3 values, one an example"):
        of_rows(PerExample(["a", "b"]))


class Weighed(nn.Module):
    """Scores by a table of weights for all, or words that scale an example's."""

    def __init__(self):
        super().__init__()
        self.model = models.conv(classes=3)

    def forward(self, x, table, words, factor=1.0):
        # A table that went along with the rows would have as many, or others.
        assert table.shape == (3, 3) and len(words) == len(x)
        scale = torch.tensor([float(len(word)) for word in words], dtype=x.dtype)
        return factor * scale[:, None] * (self.model(x) @ table.T)


TABLE = torch.tensor([[1.0, 0.2, 0.0], [0.0, 2.0, 0.1], [0.3, 0.0, 3.0]]).double()
WORDS = ["a", "bbb", "cc"]
ARGS = (Shared(TABLE), PerExample(WORDS))


def with_args(entry, x, i=slice(None)):
    args = (Shared(TABLE), PerExample(WORDS[i]))
    return entry(Weighed(), x[i], args, [0, 1, 2][i])


def saliency(model, x, args, target, **options):
    return MarginSaliency(model).attribute(
        x, None, target, args, n_evaluations=60, **options
    )


def coalition(model, x, args, target):
    return CoalitionPerturbation(model).attribute(x, None, target, args, n_steps=3)


ENTRIES = {
    "saliency": saliency,
    "one copy a pass": lambda *a: saliency(*a, perturbations_per_eval=1),
    "prior": lambda *a: saliency(*a, prior="gradcam"),
    "coalition": coalition,
    "curves": lambda m, x, a, t: insertion_deletion(m, x, x, t, a).insertion,
    "drop": lambda m, x, a, t: average_drop(m, x, x, t, a).drop,
    "region": lambda m, x, a, t: smallest_region(m, x, x, t, a).fraction,
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_marked_arguments_reach_every_entry(entry):
    x = models.images(3)
    found = with_args(entry, x)
    for i in range(3):
        alone = with_args(entry, x, slice(i, i + 1))
        torch.testing.assert_close(
            found[i : i + 1], alone, rtol=1e-6, atol=1e-9, equal_nan=True
        )


def test_marked_arguments_reach_layers():
    x, model = models.images(3), Weighed()
    assert last_conv_layer(model, x, ARGS).name == "model.3"
    plain = (TABLE, WORDS)
    layer = model.model[1]
    found = RepresentativeInterpretation(model, layer)
    found.fit(x, ARGS, seed=0)
    maps = found.attribute(x, [0, 1, 2], ARGS)
    # No rows are chosen of arguments that a function holds already.
    held = RepresentativeInterpretation(lambda t: model(t, *plain), layer)
    held.fit(x, seed=0)
    torch.testing.assert_close(maps, held.attribute(x, [0, 1, 2]))


def refused(model, inputs, args=None, **options):
    with pytest.raises(ValueError, match=r"masked copies at once of the") as error:
        MarginSaliency(model).attribute(
            inputs, additional_forward_args=args, n_evaluations=40, **options
        )
    return str(error.value)


def test_the_shared_tensor_that_was_repeated_is_named():
    weights = torch.rand(3, 5, dtype=torch.float64)

    def model(x, power, table):
        assert table.shape == (3, 5)
        return (x.abs() ** power) @ table.sum(0)

    found = refused(model, models.rows(3), (2, weights))
    assert "additional_forward_args[1] (3, 5) went along with the rows" in found
    assert "captum_margin.Shared" in found
    args = (2, Shared(weights))
    assert (
        MarginSaliency(model)
        .attribute(models.rows(3), additional_forward_args=args)
        .any()
    )


@pytest.mark.parametrize("n_examples", [1, 2])
@pytest.mark.parametrize("softmax", [True, False])
def test_a_shared_tensor_that_makes_rows_into_columns_is_named(n_examples, softmax):
    # Each of n repeats of the table would become a class.
    x, table = torch.rand(n_examples, 6), torch.rand(n_examples, 6)
    text = refused(lambda t, w: t @ w.T, x, table, target=0, softmax=softmax)
    assert f"args[0] ({n_examples}, 6) went along with the rows" in text
    found = MarginSaliency(lambda t, w: t @ w.T).attribute(
        x, target=0, additional_forward_args=Shared(table), softmax=False
    )
    # All 64 unions: the Banzhaf values of a linear score, to the last digit.
    torch.testing.assert_close(found, x * table[0])


def test_rows_that_are_compared_with_each_other_are_refused():
    text = refused(lambda t: t @ t.T, torch.rand(2, 6), target=0)
    assert "outputs (32, 32), for the examples (2, 2)" in text
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="score each by itself"):
        insertion_deletion(lambda t: t.flatten(1) @ t.flatten(1).T, x, x, 0)


def test_noise_tunnel_repeats_no_lists():
    x = torch.rand(2, 6)
    explainer = MarginSaliency(lambda t, words: t.sum(1))
    options = {"nt_samples": 3, "n_evaluations": 16}
    with pytest.raises(ValueError, match=r"expected 6 values.*NoiseTunnel.* a tensor"):
        NoiseTunnel(explainer).attribute(
            x, additional_forward_args=PerExample(["a", "b"]), **options
        )


def test_a_value_too_many_is_named_by_methods_of_layers():
    model = Weighed().eval()
    args = (Shared(TABLE), PerExample(["a"] * 5))
    references = models.images(5)
    explainer = RepresentativeInterpretation(model, model.model[0])
    explainer.fit(references, additional_forward_args=args)
    with pytest.raises(ValueError, match=r"expected 2 values, .*args\[1\] \(got 5\)"):
        explainer.attribute(references[:2], 0, additional_forward_args=args)


def test_the_list_of_one_that_was_not_repeated_is_named():
    def model(x, words):
        return torch.stack([row.sum() * len(w) for row, w in zip(x, words)])  # noqa: B905

    found = refused(model, models.rows(1), (["abc"],))
    assert "additional_forward_args[0] (list of 1) was passed as it is" in found
    maps = MarginSaliency(model).attribute(
        models.rows(1), additional_forward_args=PerExample(["abc"])
    )
    torch.testing.assert_close(maps, 3 * models.rows(1))


def packed(x, lengths):
    steps = nn.utils.rnn.pack_padded_sequence(
        x[:, :, None], lengths, batch_first=True, enforce_sorted=False
    )
    padded, _ = nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)
    return padded.sum((1, 2))


def means(x, lengths):
    kept = torch.arange(x.shape[1]) < lengths[:, None]
    return (x * kept).sum(1) / lengths


@pytest.mark.parametrize("model", [packed, means])
def test_lengths_as_an_input_are_named(model):
    x, lengths = models.rows(3), torch.tensor([2, 5, 3])
    found = refused(model, (x, lengths))
    assert "it refuses inputs[1] (torch.int64) with values of the baseline" in found
    assert "belongs into additional_forward_args" in found
    maps = MarginSaliency(model).attribute(x, additional_forward_args=lengths)
    kept = torch.arange(5) < lengths[:, None]
    expected = x * kept if model is packed else x * kept / lengths[:, None]
    torch.testing.assert_close(maps, expected)


def test_a_fixed_batch_size_is_said():
    found = refused(lambda x: x.view(3, 5).sum(1), models.rows(3))
    assert "must take any number of rows" in found


def test_a_refused_baseline_is_said():
    def model(x):
        if (x == 0).any():
            raise KeyError("zero")
        return x.sum(1)

    assert "pass other baselines" in refused(model, models.rows(3))
    assert MarginSaliency(model).attribute(models.rows(3), baselines=0.1).any()
