"""AttackDetector: its formula, its contract, and pytorch-ood's interface to it."""

import copy
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_margin.influence import AttackDetector
from tests.reference.attack_detector_reference import scores as slow_scores

LAYERS = ["0", "2"]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # distances by products of float32


def network(seed=0):
    """(B, 6) -> 3 classes; the scores are its first hidden units, more or less."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3))
    for parameter in net.parameters():
        value = torch.randn(parameter.shape, generator=generator)
        parameter.data = value
    return net


def drawn(n, seed):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    return network()


def decided(net, x):
    with torch.no_grad():
        return net(x).argmax(1)


def latents(net, x):
    with torch.no_grad():
        first = net[0](x)
        return [first.double().numpy(), net[2](net[1](first)).double().numpy()]


@pytest.fixture
def fitted(net):
    x = drawn(150, 1)
    return AttackDetector(net, LAYERS, k=4).fit(x, decided(net, x))


def test_scores_are_those_of_the_formula(net, fitted):
    known, new = drawn(150, 1), drawn(20, 2)
    said = [net(x).detach().double().numpy() for x in (known, new)]
    expected, usual = slow_scores(
        latents(net, known), said[0], latents(net, new), said[1], 4
    )
    np.testing.assert_allclose(
        fitted.score(new).numpy(), expected, rtol=2e-3, atol=2e-3
    )
    middle = fitted.threshold(0.5)
    assert middle == pytest.approx(np.sort(usual)[math.ceil(151 * 0.5) - 1], abs=2e-3)


def test_statistics_make_the_score(fitted):
    new = drawn(20, 2)
    s = fitted.statistics(new)
    assert s.shape == (20, 7)
    score = fitted._usual.score(s[:, :6].unflatten(1, (2, 3)), s[:, 6])
    torch.testing.assert_close(score, fitted.score(new))


def test_far_samples_are_suspicious(fitted):
    usual, far = fitted.score(drawn(200, 3)), fitted.score(8 * drawn(200, 4))
    assert usual.median() < fitted.threshold(0.2)
    assert (far > fitted.threshold()).double().mean() > 0.9


def test_a_sample_of_one_class_decided_as_another_is_suspicious():
    """What an attack does: early latents of the one, late ones of the other."""
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    x[:200, 0] += 8
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    net[1].weight.data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    net[1].bias.data = torch.tensor([4.0, -4.0])
    detector = AttackDetector(net, ["0"]).fit(x, decided(net, x))
    net[1].bias.data = torch.tensor([-40.0, 40.0])  # decides the first class for all
    attacked = detector.score(x[200:])
    assert attacked.min() > detector.threshold(0.01)


def test_the_threshold_keeps_its_promise(net):
    x = drawn(1000, 1)
    detector = AttackDetector(net, LAYERS).fit(x, decided(net, x))
    new = detector.score(drawn(4000, 9))
    for share in (0.2, 0.05, 0.01):
        alarms = float((new > detector.threshold(share)).double().mean())
        # Standard error of 1,000 references and 4,000 samples.
        error = math.sqrt(share * (1 - share) * (1 / 1000 + 1 / 4000))
        assert abs(alarms - share) < 4 * error


def test_the_threshold_is_an_order_statistic(net):
    x = drawn(99, 1)
    detector = AttackDetector(net, LAYERS, k=3).fit(x, decided(net, x))
    known = detector._reference_scores
    assert detector.threshold(0.05) == float(known[94])
    assert detector.threshold(0.5) == float(known[49])
    assert detector.threshold(0.001) == math.inf
    for wrong in (0, 1, -0.1, 5):
        with pytest.raises(ValueError, match="at_false_alarms within"):
            detector.threshold(wrong)


def test_references_that_are_decided_wrongly_set_the_threshold_alone(net):
    x = drawn(150, 1)
    y = decided(net, x)
    wrong = y.clone()
    wrong[:30] = (y[:30] + 1) % 3
    detector = AttackDetector(net, LAYERS, k=4).fit(x, wrong)
    right = AttackDetector(net, LAYERS, k=4).fit(x[30:], y[30:])
    new = drawn(20, 2)
    torch.testing.assert_close(detector.score(new), right.score(new), **CLOSE)
    own = right._reference_scores
    both = torch.cat([own, right.score(x[:30])]).sort().values
    torch.testing.assert_close(detector._reference_scores, both, **CLOSE)


def test_batches_make_no_difference(net, fitted):
    new = drawn(33, 5)
    together = fitted.score(new)
    alone = torch.cat([fitted.score(part) for part in new.split(1)])
    torch.testing.assert_close(alone, together, **CLOSE)
    small = AttackDetector(net, LAYERS, k=4, batch_size=7)
    small.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(small.score(new), together, **CLOSE)
    data = TensorDataset(new, torch.zeros(33))
    for given in (data, DataLoader(data, 10), (new, torch.zeros(33))):
        torch.testing.assert_close(fitted.score(given), together, **CLOSE)


def test_a_data_set_brings_its_labels(net, fitted):
    x = drawn(150, 1)
    data = TensorDataset(x, decided(net, x))
    other = AttackDetector(net, [net[0], net[2]], k=4).fit(DataLoader(data, 40))
    new = drawn(9, 5)
    torch.testing.assert_close(other.score(new), fitted.score(new), **CLOSE)


def test_a_saved_state_needs_no_pickle(net, fitted, tmp_path):
    new = drawn(9, 5)
    fitted.save(tmp_path / "state.npz")
    names = zipfile.ZipFile(tmp_path / "state.npz").namelist()
    assert all(name.endswith((".npy", ".json")) for name in names)
    loaded = AttackDetector(net, LAYERS).load(tmp_path / "state.npz")
    torch.testing.assert_close(loaded.score(new), fitted.score(new), **CLOSE)
    assert loaded.threshold() == fitted.threshold()
    torch.save(fitted.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = AttackDetector(net, LAYERS).load_state_dict(state)
    torch.testing.assert_close(again.score(new), fitted.score(new), **CLOSE)
    with pytest.raises(ValueError, match="state of 1 layers"):
        AttackDetector(net, ["0"]).load_state_dict(state)
    with pytest.raises(ValueError, match="state of pooling='flatten'"):
        AttackDetector(net, LAYERS, pooling="flatten").load_state_dict(state)
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot read"):
        AttackDetector(net, LAYERS).load(tmp_path / "other.npz")


def test_the_model_is_left_as_it_was(net):
    net.train()
    net[0].eval()
    before = copy.deepcopy(net.state_dict())
    x = drawn(60, 1)
    AttackDetector(net, LAYERS, k=3).fit(x, decided(net, x)).score(x)
    assert net.training and not net[0].training and net[2].training
    assert all(torch.equal(before[key], v) for key, v in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_class_without_references_is_as_suspicious_as_can_be(net):
    x = drawn(300, 1)
    y = decided(net, x)
    some = y != 2
    detector = AttackDetector(net, LAYERS, k=3).fit(x[some], y[some])
    infinite = detector.score(x).isinf()
    assert torch.equal(infinite, y == 2)


def test_copies_and_constant_latents_stay_finite():
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    net[1].weight.data = torch.eye(2)
    net[1].bias.data.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(8, 1)
    scores = AttackDetector(net, ["0"]).fit(x, x.argmax(1)).score(x)
    assert scores.isfinite().all()


def test_feature_maps_are_pooled_as_asked():
    conv = nn.Conv2d(1, 2, 3, padding=1)
    head = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    net = nn.Sequential(conv, head)
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = decided(net, x)
    for pooling, width in (("mean", 2), ("flatten", 32)):
        detector = AttackDetector(net, [conv], k=2, pooling=pooling).fit(x, y)
        assert detector._fitted[0].features.shape[1] == width


def test_errors_say_what_to_do(net, fitted):
    x = drawn(30, 1)
    y = decided(net, x)
    with pytest.raises(TypeError, match=r"one layer is \[layer\]"):
        AttackDetector(net, "0")
    with pytest.raises(ValueError, match="at least one layer"):
        AttackDetector(net, [])
    with pytest.raises(ValueError, match="name of a layer"):
        AttackDetector(net, ["none"])
    with pytest.raises(ValueError, match="k >= 1"):
        AttackDetector(net, LAYERS, k=0)
    with pytest.raises(ValueError, match="batch_size >= 1"):
        AttackDetector(net, LAYERS, batch_size=0)
    with pytest.raises(ValueError, match="'mean' or 'flatten'"):
        AttackDetector(net, LAYERS, pooling="max")
    fresh = AttackDetector(net, LAYERS)
    for call in (lambda: fresh.score(x), fresh.threshold, fresh.state_dict):
        with pytest.raises(RuntimeError, match=r"expected fit\(references, labels\)"):
            call()
    assert not fresh.fitted and fitted.fitted
    with pytest.raises(TypeError, match="expected labels"):
        fresh.fit(x)
    with pytest.raises(ValueError, match="labels of shape"):
        fresh.fit(x, y[:-1])
    with pytest.raises(ValueError, match="classifies rightly"):
        fresh.fit(x, y + 7)
    with pytest.raises(ValueError, match="two classes or more"):
        fresh.fit(x[y == y[0]], y[y == y[0]])
    with pytest.raises(ValueError, match="finite latents"):
        fitted.score(x * torch.nan)
    with pytest.raises(TypeError, match="Dataset or DataLoader"):
        fitted.score(3)
    with pytest.raises(ValueError, match="at least one sample"):
        fitted.score(TensorDataset(x[:0], y[:0]))
    assert fitted.score(x[:0]).shape == (0,)


def test_it_is_a_detector_of_pytorch_ood(net, fitted):
    pytest.importorskip("pytorch_ood")
    from pytorch_ood.api import Detector, RequiresFittingException
    from pytorch_ood.metrics import OODMetrics

    x = drawn(150, 1)
    y = decided(net, x)
    outlier = 9 * drawn(10, 3)
    data = TensorDataset(torch.cat([x, outlier]), torch.cat([y, torch.full((10,), -1)]))
    detector = AttackDetector(net, LAYERS, k=4).as_pytorch_ood()
    assert isinstance(detector, Detector)
    with pytest.raises(RequiresFittingException):
        detector.predict(x)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(data, 32, shuffle=True, generator=generator)
    assert detector.fit(loader) is detector
    new = drawn(40, 5)
    torch.testing.assert_close(detector.predict(new), fitted.score(new), **CLOSE)
    torch.testing.assert_close(detector(new), detector.predict(new))
    metrics = OODMetrics()
    metrics.update(detector(new), torch.zeros(40))
    metrics.update(detector(9 * drawn(40, 6)), torch.full((40,), -1))
    assert metrics.compute()["AUROC"] > 0.95
