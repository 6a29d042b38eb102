"""The benchmark of saliency maps: what it runs, keeps and reports, on a toy network."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmarks.networks.trained import CountedNetwork, Picture
from tests.benchmarks.saliency import bench, table
from tests.benchmarks.saliency.methods import Photograph, grad_cam
from tests.benchmarks.saliency.rows import Method

SIDE = 16


def network(name="squeezenet"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        below = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        above = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    black = torch.full((1, 3, 1, 1), -2.0)
    modules = nn.ModuleList([below, above]).eval()
    return CountedNetwork(below, above, modules, torch.float32, black)


def picture(network, name):
    seed = int(name.removeprefix("p"))
    generator = torch.Generator().manual_seed(seed)
    return Picture(name, torch.randn(1, 3, SIDE, SIDE, generator=generator))


@pytest.fixture
def order(monkeypatch):
    """The maps in the order in which they were made."""
    made = []

    def method(name):
        def make(photo):
            photo.model(photo.image)
            made.append(name)
            return photo.image[0].mean(dim=0) * len(name)

        return make

    def fails(photo):
        raise ArithmeticError("as others' code may")

    rows = {
        bench.MAIN_ROW: Method("ours", method(bench.MAIN_ROW), "black box", own=True),
        "RISE-800": Method("RISE", method("RISE-800"), "black box", "our budget"),
        "LeGrad": Method("LeGrad", method("LeGrad"), "white box", networks=("vit",)),
        "fails": Method("fails", fails, "no model"),
    }
    monkeypatch.setattr(bench, "ROWS", rows)
    monkeypatch.setattr(table, "ROWS", rows)
    monkeypatch.setattr(bench, "counted_network", network)
    monkeypatch.setattr(bench, "pictures", lambda *given: ["p0", "p1", "p2"])
    monkeypatch.setattr(bench, "picture", picture)
    return made


def run(cache, part="0/1", names=(bench.MAIN_ROW, "RISE-800", "LeGrad")):
    networks = ("squeezenet", "vit")
    return bench.run(networks, names, cache, part, 3, "report")


def test_all_methods_of_a_picture_come_before_the_next(order, tmp_path):
    assert run(tmp_path) == 0
    ours = bench.MAIN_ROW
    assert order == 3 * [ours, "RISE-800", ours, "RISE-800", "LeGrad"]
    assert (tmp_path / "vit.p2.LeGrad.json").exists()
    assert not (tmp_path / "squeezenet.p2.LeGrad.json").exists()


def test_what_is_there_is_not_made_again(order, tmp_path):
    run(tmp_path)
    order.clear()
    (tmp_path / "vit.p1.RISE-800.json").unlink()
    (tmp_path / "vit.p0.LeGrad.json").unlink()
    (tmp_path / "vit.p0.LeGrad.npz").unlink()
    run(tmp_path)
    assert order == ["LeGrad"]  # of the other the map is there
    assert (tmp_path / "vit.p1.RISE-800.json").exists()


def test_parts_share_the_pictures(order, tmp_path):
    run(tmp_path / "a", "0/2")
    run(tmp_path / "b", "1/2")
    found = [{p.name.split(".")[1] for p in (tmp_path / f).iterdir()} for f in "ab"]
    assert found == [{"p0", "p2"}, {"p1"}]


def test_a_failure_is_told_and_the_run_goes_on(order, tmp_path, capsys):
    assert run(tmp_path, names=("fails", bench.MAIN_ROW)) == 6
    assert order == 6 * [bench.MAIN_ROW]
    assert "failed: vit.p2.fails" in capsys.readouterr().out


def test_report_has_an_entry_a_network_and_tables_a_column(
    order, tmp_path, monkeypatch
):
    run(tmp_path)
    (tmp_path / "vit.p1.RISE-800.json").unlink()
    out = tmp_path / "results" / "saliency.json"
    bench.report(tmp_path, out)
    record = json.loads(out.read_text())
    networks = record["networks"]
    assert [*networks] == ["squeezenet", "vit"]
    assert networks["vit"]["photographs"] == ["p0", "p1", "p2"]
    rows = networks["vit"]["methods"]
    assert rows["RISE-800"]["photographs"] == 2
    assert rows["LeGrad"]["metrics"]["n_forward"]["mean"] == 1
    # The maps differ by a factor only, so that nothing of the order does.
    assert rows["LeGrad"]["paired"]["drop_keep20"]["mean"] == 0
    monkeypatch.setattr(table, "load", lambda name: record)
    head, _, *lines = table.saliency().splitlines()
    assert "SqueezeNet 1.0: insertion" in head and "ViT (CIFAR-10): drop" in head
    assert [line.split(" | ")[0] for line in lines] == [
        "| **ours**, black box",
        "| RISE, black box, our budget",
        "| LeGrad, white box",
    ]
    cells = lines[2].split(" | ")
    assert (cells[2], cells[4]) == ("", "")  # not on SqueezeNet
    assert cells[3] and cells[5]


def written(cache, **scores):
    """Records of a later run: by row, insertion of each picture; deletion is 0."""
    cache.mkdir()
    for name, values in scores.items():
        for number, value in enumerate(values):
            record = {"insertion": value, "deletion": 0.0, "drop_keep20": 0.0}
            record["n_forward"] = 1
            path = cache / f"squeezenet.p{number}.{name.replace('_', '-')}.json"
            path.write_text(json.dumps(record))


def test_a_report_may_compare_with_another_row(order, tmp_path):
    run(tmp_path)
    bench.report(tmp_path, tmp_path / "out.json", "RISE-800")
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["settings"]["paired"].startswith("RISE-800 minus the method")
    scores = {"a": [0.5, 0.25, 1.0], "b": [0.25, 0.75, 0.0]}
    records = {
        name: {
            f"p{number}": {bench.MAIN: value, "drop_keep20": 2 * value}
            for number, value in enumerate(values)
        }
        for name, values in scores.items()
    }
    del records["b"]["p2"]  # not yet finished
    paired = bench.rows_of(records, "a")["b"]["paired"]
    assert paired[bench.MAIN]["mean"] == (0.25 - 0.5) / 2
    assert paired["drop_keep20"]["mean"] == 2 * (0.25 - 0.5) / 2


def test_a_later_main_row_is_told_from_earlier_ones_through_what_both_have(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(bench, "print_table", lambda *given: None)
    ours, rise = [0.5, 0.75, 0.25, 1.0], [0.25, 0.75, 0.0, 0.5]
    out = tmp_path / "saliency.json"
    written(tmp_path / "a", MarginSaliency=ours, RISE_800=rise, LayerGradCam=rise)
    bench.report(tmp_path / "a", out)
    newer, again = [0.75, 0.75, 0.5, 0.75], [0.5, 0.5, 0.25, 1.0]
    later = {"MarginSaliency": newer, "keeping_800": again, "LayerGradCam": ours}
    written(tmp_path / "b", **later)
    bench.update(tmp_path / "b", out, "keeping-800")
    found = json.loads(out.read_text())["networks"]["squeezenet"]
    rows = found["methods"]
    assert rows["MarginSaliency"]["metrics"]["insertion"]["mean"] == np.mean(newer)
    assert rows["keeping-800"]["metrics"]["insertion"]["mean"] == np.mean(ours)
    first = np.subtract(newer, again)  # of the later run
    second = np.subtract(ours, rise)  # of the earlier one
    for name, means, errors in (
        ("keeping-800", first.mean(), [first]),
        ("RISE-800", first.mean() + second.mean(), [first, second]),
        ("MarginSaliency", 0.0, [0 * first]),
    ):
        paired = rows[name]["paired"][bench.MAIN]
        assert paired["mean"] == pytest.approx(means)
        error = sum(d.var(ddof=1) / 4 for d in errors) ** 0.5
        assert paired["standard_error"] == pytest.approx(error)
    change = np.mean(ours) - np.mean(rise)
    assert found["later_rows"]["unchanged"]["LayerGradCam"] == pytest.approx(change)


def test_and_again_through_a_row_of_both_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "print_table", lambda *given: None)
    ours, keeping, rise = ([0.5, 0.7], [0.4, 0.5], [0.2, 0.1])
    out = tmp_path / "saliency.json"
    written(tmp_path / "a", MarginSaliency=ours, keeping_800=keeping, RISE_800=rise)
    bench.report(tmp_path / "a", out)
    newer, again = [0.6, 0.7], [0.45, 0.5]
    written(tmp_path / "b", MarginSaliency=newer, keeping_800=again)
    bench.update(tmp_path / "b", out, "keeping-800")
    rows = json.loads(out.read_text())["networks"]["squeezenet"]["methods"]
    first = np.subtract(newer, again)
    parts = [first, np.subtract(ours, rise), np.subtract(ours, keeping)]
    for name, mean, errors in (
        ("MarginSaliency", 0.0, []),
        ("keeping-800", first.mean(), [first]),
        ("RISE-800", first.mean() + np.mean(keeping) - np.mean(rise), parts),
    ):
        paired = rows[name]["paired"][bench.MAIN]
        assert paired["mean"] == pytest.approx(mean)
        error = sum(d.var(ddof=1) / 2 for d in errors) ** 0.5
        assert paired["standard_error"] == pytest.approx(error)
    assert rows["keeping-800"]["metrics"]["insertion"]["mean"] == np.mean(keeping)


def test_a_network_of_a_later_run_takes_the_place_of_the_one_before(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(bench, "print_table", lambda *given: None)
    ours, rise = [0.5, 0.75], [0.25, 0.5]
    out = tmp_path / "saliency.json"
    written(tmp_path / "a", MarginSaliency=ours, RISE_800=rise)
    bench.report(tmp_path / "a", out)
    before = json.loads(out.read_text())
    before["networks"]["vit"] = {"methods": "as they were"}
    out.write_text(json.dumps(before))
    written(tmp_path / "b", MarginSaliency=rise)
    bench.replace(tmp_path / "b", out)
    networks = json.loads(out.read_text())["networks"]
    assert networks["vit"] == {"methods": "as they were"}
    (name,) = networks["squeezenet"]["methods"]
    found = networks["squeezenet"]["methods"][name]["metrics"]["insertion"]["mean"]
    assert (name, found) == ("MarginSaliency", np.mean(rise))
    assert "--methods MarginSaliency" in networks["squeezenet"]["later_run"]["command"]
    assert not list(tmp_path.glob("*.later.json"))
    written(tmp_path / "c", RISE_800=ours, LayerGradCam=rise)
    bench.replace(tmp_path / "c", out, "RISE-800")
    rows = json.loads(out.read_text())["networks"]["squeezenet"]["methods"]
    paired = rows["LayerGradCam"]["paired"][bench.MAIN]["mean"]
    assert paired == np.mean(ours) - np.mean(rise)


def test_photographs_shown_one_by_one_have_the_scores_of_a_batch():
    net = network()
    seen = []
    net.below.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    images = torch.randn(3, 3, 101, 101, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = net(images)
    assert seen == [1, 1, 1] and net.n_forward == 3
    torch.testing.assert_close(alone, net(images).detach())
    assert seen == [1, 1, 1, 3]


def test_a_later_row_is_held_to_the_main_row_of_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "print_table", lambda *given: None)
    ours, rise = [0.5, 0.75, 0.25, 1.0], [0.25, 0.75, 0.0, 0.5]
    out = tmp_path / "saliency.json"
    written(tmp_path / "a", MarginSaliency=ours, RISE_800=rise)
    bench.report(tmp_path / "a", out)
    written(tmp_path / "b", RISE_800=ours)
    bench.update(tmp_path / "b", out)
    rows = json.loads(out.read_text())["networks"]["squeezenet"]["methods"]
    paired = rows["RISE-800"]["paired"][bench.MAIN]
    assert paired["mean"] == 0
    assert paired["standard_error"] == pytest.approx(
        (2 * np.var(ours, ddof=1) / 4) ** 0.5
    )
    written(tmp_path / "c", RISE_800=ours[:2])
    with pytest.raises(ValueError, match="on the 4 pictures of squeezenet"):
        bench.update(tmp_path / "c", out)


def test_a_record_uses_the_black_of_its_network(monkeypatch):
    photo = Photograph(
        network(), picture("", "p0").image, 0, torch.zeros(1, SIDE, SIDE), seed=0
    )
    seen = {}

    def average_drop(model, image, maps, target, keep, baseline):
        seen[keep] = baseline
        return original(model, image, maps, target, keep=keep, baseline=baseline)

    original = bench.average_drop
    monkeypatch.setattr(bench, "average_drop", average_drop)
    record = bench.make_record(photo, photo.image[0, 0])
    assert seen[None] == 0.0
    assert torch.equal(seen[0.2], torch.full((1, 3, SIDE, SIDE), -2.0))
    assert record["mask_mean_keep20"] == pytest.approx(0.2, abs=0.01)


def test_passes_backwards_are_counted():
    photo = Photograph(
        network(), picture("", "p0").image, 0, torch.zeros(1, SIDE, SIDE), seed=0
    )
    with torch.no_grad():
        photo.model(photo.image.repeat(3, 1, 1, 1))
    assert (photo.model.n_forward, photo.model.n_backward) == (3, 0)
    grad_cam(photo)
    assert (photo.model.n_forward, photo.model.n_backward) == (4, 1)
