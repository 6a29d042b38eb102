"""The map of ``audit``: where samples lie, and how it is gone through."""

import numpy as np
import pytest
import torch

from captum_margin.cli import main
from captum_margin.cli.audit import map as layout
from tests.cli.test_audit_page import CHROMIUM, block, driven

MARKUP = "<i>left</i>"


def clusters(n, width=12, n_clusters=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % n_clusters
    centres = 8 * torch.eye(n_clusters, width)
    return centres[labels] + torch.randn(n, width, generator=generator), labels


def same_nearest(places, labels):
    """Share of samples whose nearest on the map is of their cluster."""
    distance = torch.cdist(places, places).fill_diagonal_(torch.inf)
    return float((labels[distance.argmin(dim=1)] == labels).float().mean())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("n_landmarks", [60, 2000])
def test_samples_alike_lie_together(metric, n_landmarks, monkeypatch):
    monkeypatch.setattr(layout, "LANDMARKS", n_landmarks)
    monkeypatch.setattr(layout, "_BLOCK", 64)  # and several blocks
    features, labels = clusters(200)
    places = layout.lay_out(features, metric)
    assert same_nearest(places, labels) == 1
    assert places.amin() == 0 or places.amax() == 1  # the longer side is filled
    assert 0 <= float(places.amin()) and float(places.amax()) <= 1
    assert torch.equal(layout.lay_out(features, metric), places)


def test_lengths_count_for_euclidean_distances_alone(monkeypatch):
    """Two clusters in one direction: told apart by their lengths or not at all."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 6, generator=generator) * 0.1 + 1
    labels = torch.arange(80) % 2
    features *= 1 + 9 * labels[:, None]
    assert same_nearest(layout.lay_out(features, "euclidean"), labels) == 1
    assert same_nearest(layout.lay_out(features, "cosine"), labels) < 0.75


def test_a_sample_goes_where_most_of_its_nearest_landmarks_are():
    """The mean of all five would be between the groups, where nothing is."""
    landmarks = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [90.0]], np.float32)
    placed = torch.tensor([[0.0, 0.0], [0, 1], [1, 0], [9, 9], [9, 8], [50, 50]])
    found = layout._between(torch.tensor([[1.9]]), landmarks, placed)
    torch.testing.assert_close(found, placed[:3].mean(dim=0, keepdim=True))


@pytest.mark.parametrize("shape", [(0, 3), (3, 3), (4, 1), (5, 40), (30, 1)])
def test_few_samples_or_columns(shape):
    features = torch.arange(float(np.prod(shape))).view(shape).sin()
    places = layout.lay_out(features, "euclidean")
    assert places.shape == ((0, 2) if shape[0] < 4 else (shape[0], 2))
    assert places.isfinite().all()


def test_samples_all_the_same_have_no_map():
    assert layout.lay_out(torch.ones(10, 3), "cosine").shape == (0, 2)
    features = torch.ones(10, 3)
    features[::2] = -1
    assert layout.lay_out(features, "cosine").isfinite().all()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """200 samples of two classes, more than the list shows at first."""
    folder = tmp_path_factory.mktemp("map")
    features, labels = clusters(200, n_clusters=2)
    labels[7] = 0  # which is of the class 1
    names = np.array([MARKUP, "right"])[labels]
    np.savez(folder / "data.npz", features=features.numpy(), labels=names)
    assert main(["audit", str(folder / "data.npz"), "--out", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


def test_the_page_holds_the_places(page):
    features, _ = clusters(200, n_clusters=2)
    places = (layout.lay_out(features, "cosine") * 9999).round().int()
    data = block(page)
    assert [data["x"], data["y"]] == places.T.tolist()


KEYS = """
  const canvas = $("plot"), key = (name, shiftKey) => canvas.dispatchEvent(
    new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true }));
  const picked = () => $("picked").innerText.split("\\n").pop();
  const current = () => [...document.querySelectorAll("#tiles [aria-current]")]
    .map(tile => tile.innerText.split("\\n").pop());
  const frame = () => new Promise(done => setTimeout(done, 50));
  const pixels = () => canvas.toDataURL();
  const D = JSON.parse($("samples").textContent);
  const order = [...D.names.keys()]
    .sort((a, b) => D.places.suspects[a] - D.places.suspects[b]).map(i => D.names[i]);
"""


# A browser without a window draws frames when it likes: these come at once.
AT_ONCE = """<head><script>
  window.requestAnimationFrame = draw => setTimeout(draw, 0);
  window.ResizeObserver = class {
    constructor(act) { this.observe = () => setTimeout(act, 0); } };
</script>"""


def drawn(page, tmp_path, steps):
    """As ``driven``, frames drawn at once."""
    copy = tmp_path / "drawn.html"
    text = page.read_text(encoding="utf-8").replace("<head>", AT_ONCE, 1)
    copy.write_text(text, encoding="utf-8")
    return driven(copy, tmp_path, KEYS + steps)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_keyboard_goes_through_the_list_on_the_map(page, tmp_path):
    steps = """
      canvas.focus();
      see.push(document.activeElement === canvas, !$("map").hidden, picked());
      key("ArrowRight");
      see.push(picked() === order[0], current().join() === order[0]);
      key("ArrowDown"); key("ArrowRight"); key("ArrowLeft");
      see.push(picked() === order[1]);
      key("End");
      see.push(picked() === order[199], current().join() === order[199],
        $("found").textContent, !$("less").hidden);
      key("ArrowRight"); see.push(picked() === order[199]);
      $("less").click(); see.push($("found").textContent, $("less").hidden);
      canvas.focus(); key("Home"); see.push(picked() === order[0]);
      key("Enter"); see.push($("one").open, $("one-name").textContent === order[0]);
      $("after").click(); $("close").click();
      see.push(picked() === order[1], document.activeElement === canvas);
    """
    assert drawn(page, tmp_path, steps) == [
        *(True, True, "", True, True, True),
        *(True, True, "200 found, those from 121 to 200 shown.", True, True),
        *("200 found, 200 shown.", True, True, True, True, True, True),
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_map_and_list_mark_each_other(page, tmp_path):
    steps = """
      await frame();
      const nothing = pixels(), tiles = document.querySelectorAll("#tiles button");
      tiles[5].focus(); await frame();
      see.push(picked() === order[5], current().join() === order[5],
        pixels() !== nothing);
      // A click where sample 150 is; it is not in the part of the list that is shown.
      const box = canvas.getBoundingClientRect();
      const side = Math.min(box.width, box.height) - 26;
      const point = (kind, i) => canvas.dispatchEvent(new PointerEvent(kind, {
        pointerId: 1, pointerType: "mouse", bubbles: true,
        clientX: box.left + box.width / 2 + (D.x[i] / 10000 - .5) * side,
        clientY: box.top + box.height / 2 + (D.y[i] / 10000 - .5) * side }));
      canvas.setPointerCapture = () => {};
      const last = D.names.indexOf(order[199]);
      point("pointermove", last);
      see.push(canvas.title.startsWith(order[199]));
      point("pointerdown", last); point("pointerup", last);
      see.push(picked() === order[199], current().join() === order[199]);
      // Those that a filter leaves out cannot be picked.
      const fields = document.forms[0].elements;
      fields.which.value = "suspects";
      fields.which.dispatchEvent(new Event("input", { bubbles: true }));
      tiles[0].focus();
      const other = D.names.indexOf(order[150]);
      key("Home"); point("pointerdown", other); point("pointerup", other);
      see.push(picked());
    """
    assert drawn(page, tmp_path, steps) == [True] * 6 + ["sample 7"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_legend_takes_classes_off_and_the_view_moves(page, tmp_path):
    steps = """
      await frame();
      const buttons = [...document.querySelectorAll("#legend button")];
      see.push(buttons.map(button => button.textContent),
        $("legend").textContent.includes("suspect"));
      const all = pixels();
      buttons[0].click(); await frame();
      const without = pixels();
      see.push(buttons[0].getAttribute("aria-pressed"), without !== all);
      buttons[0].click();
      key("+"); key("+"); await frame();
      const large = pixels();
      see.push(getComputedStyle(canvas).touchAction);
      key("ArrowRight", true); await frame();
      see.push(pixels() !== large);
      key("0"); await frame();
      see.push(getComputedStyle(canvas).touchAction);
      $("nearer").click(); await frame();
      see.push(getComputedStyle(canvas).touchAction);
      // The wheel: only where the pointer came to rest, so that pages scroll.
      $("whole").click();
      const wheel = deltaY => {
        const event = new WheelEvent("wheel", { deltaY, cancelable: true });
        canvas.dispatchEvent(event); return event.defaultPrevented; };
      see.push(wheel(-100));
      canvas.dispatchEvent(new PointerEvent("pointermove", { pointerType: "mouse" }));
      see.push(wheel(100), wheel(-100), wheel(100));
      buttons[0].click(); key("Home");  // the first of the list is of that class
      see.push(order[0], D.classes[D.given[D.names.indexOf(picked())]]);
      see.push(document.documentElement.scrollWidth <= innerWidth);
    """
    assert drawn(page, tmp_path, steps) == [
        *([MARKUP, "right"], True, "false", True),
        *("none", True, "pan-x pan-y", "none"),
        *(False, False, True, True, "sample 7", "right", True),
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_two_fingers_enlarge(page, tmp_path):
    steps = """
      canvas.setPointerCapture = () => {};
      const box = canvas.getBoundingClientRect();
      const finger = (kind, pointerId, x) => canvas.dispatchEvent(new PointerEvent(kind,
        { pointerId, pointerType: "touch", clientX: box.left + x,
          clientY: box.top + 100 }));
      finger("pointerdown", 1, 100); finger("pointerdown", 2, 150);
      for (let x = 150; x < 300; x += 10) finger("pointermove", 2, x);
      see.push(getComputedStyle(canvas).touchAction);
      finger("pointerup", 1, 100); finger("pointerup", 2, 290);
      see.push(picked());
    """
    assert drawn(page, tmp_path, steps) == ["none", ""]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_without_a_map_the_list_is_all(tmp_path):
    np.savez(tmp_path / "data.npz", features=np.ones((3, 2)))
    assert main(["audit", str(tmp_path / "data.npz"), "--out", str(tmp_path)]) == 0
    steps = 'see.push($("map").hidden, document.querySelectorAll("#tiles li").length);'
    assert driven(tmp_path / "index.html", tmp_path, steps) == [True, 3]
