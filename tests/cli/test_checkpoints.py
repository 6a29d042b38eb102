"""Weights from files: what training runs write, and what only looks like weights."""

import argparse
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from captum_margin.cli import classifier, main
from captum_margin.cli.checkpoint import read_state

CPU = torch.device("cpu")


def resnet(n_classes=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.resnet18(num_classes=n_classes)


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.fixture(scope="module")
def state():
    """Of a resnet18 of two classes."""
    return resnet().state_dict()


@pytest.fixture
def saved(tmp_path):
    """Saves, and gives the path."""

    def save(contents, name="weights.pt"):
        torch.save(contents, tmp_path / name)
        return tmp_path / name

    return save


def load(path, name="resnet18", needs_head=True, class_names=None):
    return classifier.load(name, str(path), CPU, None, class_names, needs_head)


def lightning(state):
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**prefixed("model.", state), "loss.weight": torch.ones(2)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": {"lr": 0.1, "classes": ["a", "b"]},
    }


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}

CHECKPOINTS = {
    "plain": lambda model: model.state_dict(),
    "DataParallel": lambda model: nn.DataParallel(model).state_dict(),
    "torch.compile": lambda model: torch.compile(model).state_dict(),
    "both": lambda model: nn.DataParallel(torch.compile(model)).state_dict(),
    "Lightning": lambda model: lightning(model.state_dict()),
    "Lightning, compiled": lambda model: lightning(torch.compile(model).state_dict()),
    "another prefix": lambda model: prefixed("backbone.net.", model.state_dict()),
    "model": lambda model: {"model": model.state_dict(), "epoch": torch.tensor(3)},
    "model_state_dict": lambda model: {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": OPTIMIZER,
        "loss": 0.25,
    },
    "a name of its own": lambda model: {
        "net_G": model.state_dict(),
        "optim": OPTIMIZER,
    },
    "average beside": lambda model: {
        "model": model.state_dict(),
        "model_ema": {name: 0 * value for name, value in model.state_dict().items()},
    },
    "average by prefix": lambda model: {
        **prefixed("model_ema.", {k: 0 * v for k, v in model.state_dict().items()}),
        **prefixed("model.", model.state_dict()),
    },
    "AveragedModel": lambda model: torch.optim.swa_utils.AveragedModel(
        model
    ).state_dict(),
    "a DataParallel within": lambda model: {
        name.replace("layer1.", "layer1.module."): value
        for name, value in model.state_dict().items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_weights_of_a_checkpoint_are_found(kind, saved, state):
    loaded = load(saved(CHECKPOINTS[kind](resnet())))
    found = loaded.model.state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert loaded.model.fc.out_features == 2
    assert loaded.categories == ["class 0", "class 1"]


def test_what_is_left_out_is_said(saved, state):
    path = saved(lightning(state))
    (note,) = load(path).notes
    assert note == f"not of the network, so left out of {path}: loss.weight"
    assert load(saved(state)).notes == ()


HEADS = [
    ("alexnet", "classifier.6"),
    ("convnext_tiny", "classifier.2"),
    ("densenet121", "classifier"),
    ("efficientnet_b0", "classifier.1"),
    ("googlenet", "fc"),
    ("inception_v3", "fc"),
    ("maxvit_t", "classifier.5"),
    ("mnasnet0_5", "classifier.1"),
    ("mobilenet_v2", "classifier.1"),
    ("mobilenet_v3_small", "classifier.3"),
    ("regnet_y_400mf", "fc"),
    ("resnet18", "fc"),
    ("shufflenet_v2_x0_5", "fc"),
    ("squeezenet1_1", "classifier.1"),
    ("swin_t", "head"),
    ("vgg11", "classifier.6"),
    ("vit_b_16", "heads.head"),
]


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_the_number_of_classes_is_that_of_the_weights(name, head):
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # Shapes without numbers; regnets count with numbers to find theirs.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        given = models.get_model(name, weights=None, num_classes=7, **quick)
        model = models.get_model(name, weights=None, **quick)
    expected = given.state_dict()
    assert classifier._head_of(model) == head
    assert classifier._resize(model, head, expected) == 7
    extra = ("aux", "Aux")
    for key, value in model.state_dict().items():
        if not key.startswith(extra):
            assert value.shape == expected[key].shape, key
    layer = model.get_submodule(head)
    assert 7 in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))


def test_a_squeezenet_of_three_classes_classifies(saved):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = models.squeezenet1_1()
        model.classifier[1] = nn.Conv2d(512, 3, 1)  # as it is fine-tuned
    loaded = load(saved(model.state_dict()), "squeezenet1_1")
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.model(image), model.eval()(image))
    assert loaded.model(image).shape == (2, 3)


def test_heads_for_training_alone_are_left_out(saved):
    model = models.googlenet(num_classes=3, init_weights=False)
    assert any(name.startswith("aux1.") for name in model.state_dict())
    for contents in (
        model.state_dict(),
        {k: v for k, v in model.state_dict().items() if not k.startswith("aux")},
    ):
        found = load(saved(contents), "googlenet")
        # As torchvision's own weights want it, which a state dict does not tell.
        assert found.model.transform_input and "transform_input" in found.notes[0]
        loaded = found.model.state_dict()
        assert all(torch.equal(loaded[name], contents[name]) for name in loaded)
        assert len(loaded["fc.bias"]) == 3


def test_names_of_the_classes(saved, state, tmp_path):
    weights = saved(state)
    for name, text, names in [
        ("a.txt", "cat\nbig dog \n", ["cat", "big dog"]),
        ("a.json", '["cat", "dog"]', ["cat", "dog"]),
        ("b.json", '{"1": "dog", "0": "cat"}', ["cat", "dog"]),
        ("c.txt", "\ufeffcat\r\nd\x1b[31mog", ["cat", "dog"]),
    ]:
        (tmp_path / name).write_bytes(text.encode())
        assert load(weights, class_names=str(tmp_path / name)).categories == names
    for name, text, part in [
        ("d.txt", "cat\n", "expected 2 names of classes, one for each output (got 1"),
        ("d.json", '{"1": "dog", "2": "cat"}', "to hold a list of names"),
        ("e.json", "[1, 2]", "to hold a list of names"),
        ("f.json", "[", "to hold a list of names"),
        ("g.txt", "\udcff", "not a text in UTF-8"),
        ("none.txt", None, "No such file"),
    ]:
        if text is not None:
            (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(classifier.CommandError, match=part.replace("(", r"\(")):
            load(weights, class_names=str(tmp_path / name))
    with pytest.raises(classifier.CommandError, match="got 1000 from --class-names"):
        load(weights, class_names="imagenet")


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command into ``out``; gives status, stdout, stderr."""

    def command(name, *arguments):
        status = main([name, *map(str, arguments), "--out", str(tmp_path / "out")])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def assert_one_error_line(result, *parts):
    status, _, error = result
    assert status == 1
    assert error.startswith("captum-margin: error: ")
    assert error.count("\n") == 1 and error.endswith("\n")
    assert "\x1b" not in error and len(error) < 800
    for word in ("weights_only", "trust", "safe_globals", "PyTorch 2.6"):
        assert word not in error
    for part in parts:
        assert part in error


def test_explain_two_classes_from_the_shell(run, saved, photograph, tmp_path):
    model = resnet().eval()
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    status, output, error = run(
        "explain", photograph, "--model", "resnet18", "--n-evaluations", 16,
        "--weights", saved(lightning(model.state_dict())),
        "--class-names", tmp_path / "names.txt", "--target", "DOG",
    )  # fmt: skip
    assert (status, error) == (0, "")
    assert "left out" in output and "loss.weight" in output
    record = json.loads((tmp_path / "out" / "photo.json").read_text())
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    with torch.no_grad():
        pixels = preset(Image.open(photograph).convert("RGB"))[None]
        expected = model(pixels).softmax(dim=1)[0]
    assert record["target"]["name"] == "dog" and record["target"]["index"] == 1
    assert record["target"]["probability"] == pytest.approx(
        float(expected[1]), abs=1e-5
    )
    assert {entry["name"] for entry in record["top_classes"]} == {"cat", "dog"}


@pytest.mark.parametrize("kind", ["two classes", "another head", "no head", "wide"])
def test_audit_needs_no_head(kind, run, saved, state, tmp_path):
    """The features are the same whatever stood behind them, or did not."""
    contents = dict(state)
    if kind != "two classes":
        del contents["fc.weight"], contents["fc.bias"]
    if kind == "another head":
        contents |= {"fc.1.weight": torch.ones(2, 512), "fc.1.bias": torch.ones(2)}
    if kind == "wide":  # by the same names
        contents |= {"fc.weight": torch.ones(2, 600), "fc.bias": torch.ones(2)}
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            level = 60 * i + 40 * (label == "b")
            Image.new("RGB", (64, 64), (level, 90, 255 - level)).save(
                tmp_path / "data" / label / f"{i}.png"
            )
    weights = saved(contents)
    arguments = (tmp_path / "data", "--model", "resnet18", "--weights", weights)
    status, _, error = run("audit", *arguments)
    assert (status, error) == (0, "")
    with np.load(tmp_path / "out" / "features.npz") as file:
        names, features = file["names"], file["features"]
    model = resnet().eval()
    model.fc = nn.Identity()
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    with torch.no_grad():
        for name, found in zip(names, features, strict=True):
            pixels = preset(Image.open(tmp_path / "data" / name))[None]
            np.testing.assert_allclose(found, model(pixels)[0], atol=1e-4)
    if kind == "no head":  # which has no outputs to speak of
        result = run("audit", *arguments, "--layer", "fc")
        assert_one_error_line(result, "finite features")
        result = run("explain", tmp_path / "data", *arguments[1:])
        assert_one_error_line(result, "2 of 122 are missing: fc.weight, fc.bias")


@pytest.mark.parametrize("command", ["explain", "audit"])
def test_what_does_not_fit_is_named_and_no_more(command, run, saved, photograph):
    def result(contents, name="resnet18"):
        where = photograph if command == "explain" else photograph.parent
        return run(command, where, "--model", name, "--weights", saved(contents))

    state = models.squeezenet1_1().state_dict()
    # The two SqueezeNets differ in sizes alone, and in many.
    assert_one_error_line(
        result(state, "squeezenet1_0"), "do not fit squeezenet1_0",
        "have another size: features.0.weight is 64 x 3 x 3 x 3 in place of 96 x 3 x 7",
        "and ", " more; give with --model the architecture", "package.module:function",
    )  # fmt: skip
    assert_one_error_line(
        result(state), "do not fit resnet18", "are missing: conv1.weight, bn1.weight",
        "52 are not the network's: features.0.weight", "and 49 more",
    )  # fmt: skip
    state = {**resnet(2).state_dict(), "extra\x1b[31m.weight": torch.ones(1)}
    assert_one_error_line(result(state), "1 are not the network's: extra.weight;")
    del state["extra\x1b[31m.weight"], state["conv1.weight"]
    assert_one_error_line(result(state), "1 of 122 are missing: conv1.weight;")


def test_a_file_that_holds_more_than_one_network(run, saved, photograph, state):
    for contents, part in [
        ({"a": state, "b": state}, "hold several state dicts: a, b;"),
        (
            {**prefixed("student.", state), **prefixed("teacher.", state)},
            "hold the network 2 times: student., teacher.;",
        ),
    ]:
        options = ("--model", "resnet18", "--weights", saved(contents))
        assert_one_error_line(
            run("explain", photograph, *options), part, "save the one"
        )


def test_one_output_is_not_two_classes(run, saved, photograph):
    options = ("--model", "resnet18", "--weights", saved(resnet(1).state_dict()))
    assert_one_error_line(
        run("explain", photograph, *options), "an output for each class (got one"
    )


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"


@pytest.mark.parametrize("command", ["explain", "audit"])
@pytest.mark.parametrize(
    ("contents", "part"),
    [
        (b"", "the file is empty"),
        (LFS, "a pointer of Git LFS, not the file itself; run git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page, not the file itself"),
        (b"\x89HDF\r\n\x1a\n and so on", "not a file of torch.save, or damaged"),
        (resnet, "it holds more than tensors (torchvision.models.resnet.ResNet)"),
        (
            lambda: {"state_dict": {}, "args": argparse.Namespace(lr=1)},
            "it holds more than tensors (argparse.Namespace)",
        ),
        (lambda: {}, "expected a state dict in the weights"),
        (lambda: {"epoch": 3, "lr": 0.1}, "(got a dict of epoch, lr)"),
        (lambda: torch.ones(3), "(got a Tensor)"),
        (None, "it is a TorchScript program"),
        ("folder", "expected a file of weights (got a folder)"),
    ],
)
def test_what_only_looks_like_weights(
    contents, part, command, run, photograph, tmp_path
):
    path = tmp_path / "weights.pt"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/constants.pkl", b"")
    elif contents == "folder":
        path.mkdir()
    else:
        torch.save(contents(), path)
    where = photograph if command == "explain" else tmp_path
    result = run(command, where, "--model", "resnet18", "--weights", path)
    assert_one_error_line(result, part, str(path))


def test_half_a_file(run, saved, photograph, state):
    path = saved(state)
    path.write_bytes(path.read_bytes()[:-5000])
    result = run("explain", photograph, "--model", "resnet18", "--weights", path)
    assert_one_error_line(result, "not a file of torch.save, or damaged")


def safetensors_file(path, arrays):
    """Written by hand: the length of a header, the header, the numbers."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        place = [len(data), len(data) + array.nbytes]
        header[name] = {
            "dtype": "F32", "shape": list(array.shape), "data_offsets": place
        }  # fmt: skip
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "b.pt"])
def test_safetensors(name, tmp_path):
    pytest.importorskip("safetensors")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_state(safetensors_file(tmp_path / name, {"fc.weight": array}))
    assert list(found) == ["fc.weight"]
    assert torch.equal(found["fc.weight"], torch.from_numpy(array))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((tmp_path / name).read_bytes()[:-4])
    with pytest.raises(classifier.CommandError, match="a damaged safetensors file"):
        read_state(damaged)


def test_safetensors_without_the_package(run, photograph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    path = safetensors_file(tmp_path / "a.safetensors", {"a": np.ones(2, "float32")})
    result = run("explain", photograph, "--model", "resnet18", "--weights", path)
    assert_one_error_line(result, "pip install safetensors")


@pytest.mark.parametrize("n_bytes", [600, 5_000, 100_000, 20_000_000])
def test_a_file_that_is_cut_anywhere(n_bytes, saved, state, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(saved(state).read_bytes()[:n_bytes])
    with pytest.raises(
        classifier.CommandError, match=r"not a file of torch\.save, or damaged$"
    ):
        read_state(cut)


def test_a_damaged_safetensors_file_speaks_in_our_words(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x10" + bytes(7) + b'{"\x1b[31ma":1}   ')
    with pytest.raises(
        classifier.CommandError, match=r"a damaged safetensors file; get it anew$"
    ):
        read_state(path)
