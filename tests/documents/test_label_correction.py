"""The benchmarks of planted and of corrected labels measure what they say."""

import numpy as np
import pytest
import torch

from tests.benchmarks.label_noise import bench, correction


def test_the_first_share_gets_its_true_labels():
    given, true = np.array([1, 0, 1, 0, 1]), np.zeros(5, int)
    scores = np.array([0.1, 0.9, 0.8, 0.0, 0.8])  # 1, then 2 before 4: a tie
    right = correction.corrected(given, true, scores, 0.4)
    assert right.tolist() == [1, 0, 0, 0, 1]
    assert given.tolist() == [1, 0, 1, 0, 1]
    assert correction.corrected(given, true, scores, 1.0).tolist() == [0] * 5


def test_accuracy_is_that_on_the_test_set():
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    test, truth = (
        torch.tensor([[-3.0], [3.0], [4.0], [5.0]]),
        torch.tensor([0, 1, 1, 0]),
    )
    judge = correction.Judge(x, test, truth, 1.0)
    assert judge(np.array([0, 0, 1, 1])) == [75, 75]
    assert judge(np.array([1, 1, 0, 0])) == [25, 25]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_made_anew_leave_the_others(monkeypatch):
    """Only the rows named change, with their difference to LabelNoise's kept row."""

    class Fake:
        def __init__(self, data):
            pass

        def scores(self, labels, options):
            return (labels != 0).double().numpy()  # all flips of class 0 first

    monkeypatch.setattr(bench, "Ours", Fake)
    data = torch.zeros(20, 1), torch.zeros(20, dtype=torch.long)
    data[1][10:] = 1
    width = len(bench.SHARES) + 1
    kept = {"mean": [0.5] * width, "standard_error": [0.03] * width}
    pairs = {"mean": [0.1] * width, "standard_error": [0.2] * width}
    table = {
        "repetitions": 2,
        "methods": {
            "LabelNoise": {**kept, "labelnoise_minus_this": pairs},
            "a peer": {**kept, "labelnoise_minus_this": pairs},
        },
    }
    made = bench.renewed(table, data, "10% symmetric", {"a form": {}})["methods"]
    assert made["a peer"] == table["methods"]["a peer"]
    assert made["LabelNoise"] == table["methods"]["LabelNoise"]
    row = made["a form"]
    lead = row["labelnoise_minus_this"]
    np.testing.assert_allclose(lead["mean"], 0.5 - np.array(row["mean"]), atol=1e-4)
    expected = np.hypot(0.03, row["standard_error"])
    np.testing.assert_allclose(lead["standard_error"], expected, atol=1e-4)
