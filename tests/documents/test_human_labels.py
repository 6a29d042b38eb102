"""The benchmark on people's label mistakes measures what it says."""

import numpy as np
import pytest
import torch

from tests.benchmarks.label_noise import human, human_data, human_peers, human_table
from tests.benchmarks.label_noise.human_peers import Verdict


@pytest.mark.filterwarnings("ignore:No positive class")  # in a half of four samples
def test_measures_of_a_ranking_and_of_flags():
    wrong = np.array([True, False, True, False])
    flagged = np.array([True, True, False, False])
    found = human.measured(
        {"a peer": Verdict(np.array([4.0, 3.0, 2.0, 1.0]), flagged)}, wrong
    )
    assert (found["samples"], found["wrong"]) == (4, 2)
    assert found["methods"]["a peer"] == {
        "AP": 0.8333,  # (1/1 + 2/3) / 2
        "precision_at_wrong": 0.5,
        "flagged": 2,
        "flagged_of_wrong": 1.0,
        "flagged_precision": 0.5,
        "flagged_recall": 0.5,
    }


def test_lead_over_a_peer_with_the_deviation_over_the_same_halves():
    rng = np.random.default_rng(0)
    wrong = rng.random(60) < 0.5
    ours, peer = wrong + rng.normal(size=60), rng.random(60)
    rows = human.measured(
        {"LabelNoise": Verdict(ours), "same": Verdict(ours), "peer": Verdict(peer)},
        wrong,
    )["methods"]
    assert rows["same"]["labelnoise_minus_this"] == 0
    assert rows["same"]["standard_error"] == 0  # paired: the halves are the same
    lead = rows["LabelNoise"]["AP"] - rows["peer"]["AP"]
    assert rows["peer"]["labelnoise_minus_this"] == pytest.approx(lead, abs=2e-4)
    draws = np.random.default_rng(human.SEED)
    halves = [draws.permutation(60)[:30] for _ in range(human.SUBSETS)]
    precision = human.average_precision_score
    leads = [
        precision(wrong[h], ours[h]) - precision(wrong[h], peer[h]) for h in halves
    ]
    assert rows["peer"]["standard_error"] == round(float(np.std(leads, ddof=1)), 4)


def test_verified_digits_are_found_among_all():
    none = torch.zeros(0)
    verified = np.arange(300) % 3 == 0
    wrong = np.isin(np.arange(300), [0, 150, 297])
    digits = human_data.Digits(none, none, np.zeros(0), verified, wrong)
    found = human.measured_digits({"a peer": Verdict(-np.arange(300.0))}, digits)
    row = found["methods"]["a peer"]
    assert row["ranks"] == [1, 151, 298]
    assert (row["first_100"], row["first_200"], row["first_500"]) == (1, 2, 3)
    assert row["AP"] == round((1 + 2 / 151 + 3 / 298) / 3, 4)
    assert row["AP_verified"] == round((1 + 2 / 51 + 3 / 100) / 3, 4)


def test_only_the_methods_named_are_made_anew(tmp_path, monkeypatch):
    labels = torch.tensor([0, 1])
    calls = []

    def ours(*given):
        calls.append("ours")
        return Verdict(np.full(2, float(len(calls))))

    def peers(*given):
        calls.append("peers")
        return {name: Verdict(np.zeros(2)) for name in human_peers.FEATURES}

    monkeypatch.setattr(human_peers, "ours", ours)
    monkeypatch.setattr(human_peers, "of_features", peers)
    x = torch.zeros(2, 1)
    first = human.verdicts(tmp_path / "a", x, None, labels, None)
    assert set(first) == {"LabelNoise", *human_peers.FEATURES}
    assert calls == ["ours", "peers"]
    human.verdicts(tmp_path / "a", x, None, labels, None)
    assert calls == ["ours", "peers"]  # all of them kept
    again = human.verdicts(tmp_path / "a", x, None, labels, ["LabelNoise"])
    assert calls == ["ours", "peers", "ours"]
    assert again["LabelNoise"].scores.tolist() == [3, 3]
    assert set(again) == set(first)


def test_a_method_that_takes_no_probabilities_has_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(human_peers, "ours", lambda *given: None)
    monkeypatch.setattr(
        human_peers,
        "of_probabilities",
        lambda *given: {name: Verdict(np.zeros(2)) for name in human_peers.SHARED},
    )
    p = np.full((2, 2), 0.5)
    found = human.verdicts(tmp_path, None, p, torch.tensor([0, 1]), None)
    assert set(found) == set(human_peers.SHARED)


def test_lead_is_over_the_best_peer_also_when_it_has_no_column():
    peers = {
        "self-confidence": {"AP": 0.5, "labelnoise_minus_this": 0.1},
        "TracIn": {"AP": 0.7, "labelnoise_minus_this": -0.1, "standard_error": 0.02},
    }
    cell = human_table._lead({"LabelNoise": {"AP": 0.6}, **peers})
    assert cell.text == "\N{MINUS SIGN}0.100 ± 0.020 (TracIn)"
