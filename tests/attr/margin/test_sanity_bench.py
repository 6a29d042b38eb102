"""The networks of the sanity checks: what is random in them, and what is not."""

import pytest
import torch

from tests.benchmarks.networks import vit
from tests.benchmarks.sanity import methods

STEM_NORM = "conv_proj.conv_bn_relu_0.1.running_mean"


@pytest.fixture
def trained(monkeypatch):
    """A transformer whose every weight is another than at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = vit.architecture().eval()
        for values in net.state_dict().values():
            if values.is_floating_point():
                values.uniform_(0.1, 0.2)
    monkeypatch.setattr(methods, "plain_network", lambda name: net)
    return net


def references():
    generator = torch.Generator().manual_seed(0)
    return 2 + torch.randn(16, 3, 32, 32, generator=generator)


def test_only_the_classifier_is_random(trained):
    before = {name: v.clone() for name, v in trained.state_dict().items()}
    after = methods.randomised("vit", "classifier", 0, references()).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"heads.head.weight", "heads.head.bias"}
    assert after["heads.head.weight"].std() > 0.01  # torchvision's would be 0


def test_all_is_random_and_norms_have_seen_the_references(trained):
    before = {name: v.clone() for name, v in trained.state_dict().items()}
    net = methods.randomised("vit", "all", 0, references())
    after = net.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert not same
    assert not net.training and not any(m.training for m in net.modules())
    stem = net.conv_proj[0][0]
    maps = torch.cat([stem(chunk) for chunk in references().split(methods.CHUNK)])
    torch.testing.assert_close(after[STEM_NORM], maps.mean(dim=(0, 2, 3)))


def test_draws_differ_by_their_seed(trained):
    weights = [
        methods.randomised("vit", "classifier", seed, references())
        .heads.head.weight.detach()
        .clone()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_layered_is_the_network(trained):
    x = references()[:2]
    found = methods.layered("vit", trained)(x)  # in another order of memory
    torch.testing.assert_close(found, trained(x), rtol=1e-4, atol=1e-4)


def test_layered_squeezenet_gives_logits_from_its_maps(monkeypatch):
    net = methods.architecture("squeezenet").eval()
    model = methods.layered("squeezenet", net)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = []
    model.feature_map.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (1, 1000)
        torch.testing.assert_close(net.classifier(seen[0]).flatten(1), logits)
    assert seen[0].dtype == torch.float32
