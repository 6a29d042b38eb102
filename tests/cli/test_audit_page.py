"""The page of ``audit``: all samples as data, and what a browser makes of it."""

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from captum_margin.cli import main
from captum_margin.cli.audit import browse
from captum_margin.influence import DecisionBoundary, LabelNoise, Prototypes

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def digits(tmp_path):
    """40 images, one under a wrong label; a name that would end the script."""
    generator = np.random.default_rng(3)
    images = generator.integers(0, 30, (40, 9, 9)).astype(np.uint8)
    images[:20, :, :4] += 200
    images[20:, :, 5:] += 200
    labels = np.repeat(["left", "right"], 20)
    labels[3] = "right"
    names = [f"digit {i}" for i in range(40)]
    names[5] = HOSTILE
    path = tmp_path / "digits.npz"
    np.savez(path, images=images, labels=labels, names=np.array(names))
    return path


@pytest.fixture
def page(digits, tmp_path):
    out = tmp_path / "out"
    options = ["--top", "1", "--metric", "cosine", "--out", str(out)]
    assert main(["audit", str(digits), *options]) == 0
    return out / "index.html"


def block(page):
    """The data of the page's script."""
    text = page.read_text(encoding="utf-8")
    start = '<script type="application/json" id="samples">'
    return json.loads(text.split(start)[1].split("</script>")[0])


def order(data, question):
    """The samples of the page in the order of a question."""
    return np.argsort(data["places"][question]).tolist()


def test_the_block_holds_what_the_library_answers(page, digits):
    with np.load(digits) as file:
        features = file["images"].reshape(40, -1).astype(np.float32)
        labels, names = file["labels"], file["names"].tolist()
    data = block(page)
    assert data["names"] == names
    assert [data["classes"][c] for c in data["given"]] == labels.tolist()
    noise = LabelNoise.from_features(features, labels, k=10).result()
    assert order(data, "suspects") == noise.ranking().tolist()
    assert data["suspects"] == [3] and data["classes"][data["decided"][3]] == "left"
    decided = noise.predicted()
    for i in range(40):
        near = noise.neighbors(i)
        assert data["near"][i] == near.indices[: browse.N_NEAR].tolist()
        around = [near.labels.count(x) for x in ("left", "right")]
        expected = [len(near.labels), around[data["given"][i]], around[decided[i]]]
        assert data["votes"][i] == expected
    points = features / np.linalg.norm(features, axis=1, keepdims=True)
    odd = Prototypes.from_features(points, decided, k=1).result()
    assert order(data, "criticisms") == odd.ranking().tolist()
    between = DecisionBoundary.from_features(
        features, decided, k=10, label_source="given"
    )
    assert order(data, "boundary") == between.result().ranking().tolist()
    assert sum(size for _, size in data["prototypes"]) == 40
    for tile, pixels in zip(data["tiles"], features, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(tile)))
        assert image.size == (9, 9)
        shown = np.asarray(image.convert("L")).reshape(-1)
        assert np.abs(shown - pixels).mean() < 12  # the format is lossy


def test_of_very_many_samples_the_page_holds_the_first(monkeypatch, tmp_path):
    generator = np.random.default_rng(5)
    labels = np.arange(200) % 4
    features = generator.normal(size=(200, 3)) + 2 * np.eye(4, 3)[labels]
    np.savez(tmp_path / "many.npz", features=features, labels=labels)
    blocks = {}
    for name, whole in (("all", 200), ("first", 199)):
        monkeypatch.setattr(browse, "WHOLE", whole)
        monkeypatch.setattr(browse, "FIRST", 7)
        out = tmp_path / name
        command = [*("audit", str(tmp_path / "many.npz")), *("--prototypes", "4")]
        assert main([*command, "--top", "5", "--out", str(out)]) == 0
        blocks[name] = block(out / "index.html")
    whole, part = blocks["all"], blocks["first"]
    listed = {i for i, _ in whole["prototypes"]} | {*whole["suspects"][:7]}
    for places in whole["places"].values():
        listed |= {i for i, place in enumerate(places) if place <= 7}
    near = {j for i in listed for j in whole["near"][i]}
    held = sorted(listed | near)
    assert 40 < len(held) < 160 and part["total"] == 200
    # The same as on a page of all, numbered in the same order.
    for name in ("names", "given", "decided", "votes"):
        assert part[name] == [whole[name][i] for i in held]
    for question, places in whole["places"].items():
        assert part["places"][question] == [places[i] for i in held]
    for at, i in enumerate(held):
        around = whole["near"][i] if i in listed else []
        assert [held[j] for j in part["near"][at]] == around
    assert [held[i] for i in part["suspects"]] == [
        i for i in whole["suspects"] if i in held
    ]
    pairs = [[held[i], size] for i, size in part["prototypes"]]
    assert pairs == whole["prototypes"]
    # What the sections show is what opens.
    text = (tmp_path / "first" / "index.html").read_text(encoding="utf-8")
    assert f"{len(held)} of 200 samples" in text and "hold all" in text
    shown = re.findall(r'data-sample="(\d+)"[^>]*>(sample \d+)<', text)
    assert len(shown) > 20
    assert all(part["names"][int(i)] == name for i, name in shown)
    rows = (tmp_path / "first" / "suspects.csv").read_text().splitlines()
    assert len(rows) == 201


def test_equal_weights_keep_the_order_of_the_library():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = (
        torch.randint(0, 2, (60, 3), generator=generator).float() + labels[:, None]
    )
    result = LabelNoise.from_features(features, labels, k=9).result()
    graph = result.graph
    found = browse.nearest(graph.edge_index, graph.edge_weight, 60)
    expected = [result.neighbors(i).indices[:6].tolist() for i in range(60)]
    assert found == expected


def test_without_labels_the_nearest_come_first_too(tmp_path):
    """On a line of growing gaps the nearest are known: those before."""
    features = np.stack([1.3 ** np.arange(30), np.zeros(30)], axis=1)
    np.savez(tmp_path / "line.npz", features=features)
    out = tmp_path / "out"
    assert main(["audit", str(tmp_path / "line.npz"), "--out", str(out)]) == 0
    near = block(out / "index.html")["near"]
    assert any(near)
    for i, found in enumerate(near):
        distance = np.abs(features[found, 0] - features[i, 0])
        assert (np.diff(distance) >= 0).all()
    edges = torch.tensor([[0, 1, 5], [3, 3, 2]])
    values = browse.closeness(torch.arange(12.0).view(6, 2), edges)
    expected = -torch.tensor([72.0, 32.0, 72.0]).sqrt()
    torch.testing.assert_close(values, expected)


def test_small_pictures_keep_to_their_budget(digits, monkeypatch, tmp_path):
    """The suspect and its neighbours have theirs before others."""
    monkeypatch.setattr(browse, "_BUDGET", 2000)
    out = tmp_path / "out"
    assert main(["audit", str(digits), "--out", str(out)]) == 0
    data = block(out / "index.html")
    assert 1000 < sum(map(len, data["tiles"])) <= 2000
    assert "" in data["tiles"]
    assert all(data["tiles"][i] for i in (3, *data["near"][3]))


def test_the_page_loads_nothing_and_names_are_no_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and HOSTILE not in text
    assert text.count("<script") == 2 and "://" not in text
    # Every part that the script looks for is there.
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', text))
    assert wanted == wanted & set(re.findall(r'id="([\w-]+)"', text)) and wanted
    for field in ("text", "which", "order", "given", "decided"):
        assert re.search(rf'<label>[^<]+<(input|select)[^>]* name="{field}"', text)


def driven(page, tmp_path, steps):
    """What a script put into the page sees: a list, its title in the end."""
    script = f"""<script>(async () => {{
      const see = [], $ = id => document.getElementById(id);
      {steps}
      document.title = JSON.stringify(see);
    }})()</script></body>"""
    copy = tmp_path / "driven.html"
    text = page.read_text(encoding="utf-8").replace("</body>", script)
    copy.write_text(text, encoding="utf-8")
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=600,800"),
        *("--virtual-time-budget=5000", "--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr[-500:]
    return json.loads(html.unescape(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_finds_opens_and_closes(page, tmp_path):
    steps = """
      const tiles = () => [...document.querySelectorAll("#tiles button")];
      see.push(tiles().length, document.documentElement.scrollWidth <= innerWidth);
      const fields = document.forms[0].elements;
      const set = (name, value) => { fields[name].value = value;
        fields[name].dispatchEvent(new Event("input", { bubbles: true })); };
      set("which", "suspects");
      see.push($("found").textContent, tiles()[0].innerText);
      tiles()[0].focus(); tiles()[0].click();
      see.push($("one").open, $("one-name").textContent,
        document.activeElement.id, $("one-body").querySelectorAll("li").length);
      $("one-body").querySelector("li button").click();
      see.push($("one-name").textContent !== "digit 3", !$("back").hidden);
      $("back").click(); see.push($("one-name").textContent);
      $("close").click();
      see.push($("one").open, document.activeElement === tiles()[0]);
      set("which", ""); set("given", "0"); see.push(tiles().length);
      set("given", ""); set("text", "SCRIPT"); see.push(tiles().length);
      set("text", ""); set("order", "name"); see.push(tiles()[1].innerText);
      document.querySelector("#suspects button.open").click();
      see.push($("one-name").textContent);
    """
    assert driven(page, tmp_path, steps) == [
        *(40, True, "1 found, 1 shown.", "right\nothers: left\ndigit 3"),
        *(True, "digit 3", "one-name", 6, True, True, "digit 3", False, True),
        *(19, 1, "left\ndigit 0", "digit 3"),
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_what_is_checked_is_remembered_and_saved(tmp_path):
    """Of a table; the suspects have long names, and a page of the same data opens."""
    generator = np.random.default_rng(0)
    features = np.repeat([[0.0, 0.0], [9.0, 9.0]], 15, axis=0)
    features += generator.normal(size=features.shape)
    labels = np.repeat(["low", "high"], 15)
    labels[[2, 20]] = "high", "low"
    names = [f'{"a name without end " * 9}, "{i}"' for i in range(30)]
    path = tmp_path / "table.npz"
    np.savez(path, features=features, labels=labels, names=np.array(names))
    assert main(["audit", str(path), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "index.html"
    steps = """
      const title = document.title, key = `captum-margin ${title}`;
      const boxes = () => [...document.querySelectorAll(".check input")];
      const state = () => boxes().map(box => box.checked);
      const told = () => $("checks").firstElementChild.textContent;
      see.push(document.documentElement.scrollWidth <= innerWidth, state(), told(),
        $("save-checked").disabled);
      boxes()[1].click();
      see.push(told(), JSON.parse(localStorage.getItem(key)).length);
      document.querySelector("#suspects h3 button.open").click();
      const own = $("one-body").querySelector(".check input");
      see.push(own.checked); own.click(); see.push(state(), told());
      boxes()[1].click();
      let saved; URL.createObjectURL = blob => { saved = blob; return "#"; };
      $("save-checked").click();
      see.push(await saved.text());
    """
    first, second, *others = block(page)["suspects"]
    assert {2, 20} <= {first, second, *others}
    rest = [False] * len(others)
    n = len(rest) + 2
    seen = driven(page, tmp_path, steps)
    text = seen.pop()
    assert seen == [
        *(True, [False, False, *rest], f"0 of {n} checked.", True),
        *(f"1 of {n} checked.", 1, False),
        *([True, True, *rest, True], f"2 of {n} checked."),  # and that of the dialog
    ]
    rows = list(csv.reader(io.StringIO(text)))
    given, other = labels[first], {"low": "high", "high": "low"}[labels[first]]
    assert rows[0] == ["name", "given_label", "predicted_label"]
    assert rows[1:] == [[names[first], given, other]]
    # Another time, and in another tab: the browser's profile is the same.
    again = steps.partition("boxes()[1]")[0]
    state = [True, False, *rest]
    assert driven(page, tmp_path, again) == [True, state, f"1 of {n} checked.", False]
