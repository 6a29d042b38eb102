"""``captum-margin demo``: a page of pictures from a net trained on the spot."""

from __future__ import annotations

import argparse
import html
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_margin.cli.demo.digits import TrainedDigits, train_digits
from captum_margin.cli.output import make_folder, package_versions, say
from captum_margin.metrics import InsertionDeletion, insertion_deletion

_DESCRIPTION = """\
Train a small convolutional net on scikit-learn's scanned digits, explain some digits it
has not seen with MARGIN saliency and, beside it, Captum's Grad-CAM, and write one
page of pictures. Nothing is downloaded; it takes less than a minute."""

_BLANK = 0.0  # the page without ink
_DIGITS = (0, 3, 5, 8)
_N_EVALUATIONS = 400
_MARGIN = "MARGIN saliency"
_GRAD_CAM = "Grad-CAM (Captum)"
_LAST_ACTIVATION = 11


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``demo`` to the commands of the parser."""
    parser = commands.add_parser(
        "demo",
        help="train a small net, explain it, write a page of pictures (no download)",
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captum-margin-demo"),
        metavar="DIR",
        help="folder to write to, created if missing (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains, explains and writes; returns 0.

    Raises:
        CommandError: If the output folder cannot be written to.
    """
    folder = make_folder(args.out)
    started = time.perf_counter()
    digits = train_digits()
    training = (
        f"A convolutional net, trained in {time.perf_counter() - started:.1f} seconds "
        f"on scanned digits, names {digits.accuracy:.1%} of {len(digits.labels)} "
        "unseen ones rightly."
    )
    say(training)
    examples = []
    for digit in _DIGITS:
        example = _explain(digits, digit, folder)
        say(f"wrote {folder / example.picture}")
        examples.append(example)
    page = folder / "index.html"
    page.write_text(_page(training, examples), encoding="utf-8")
    say(f"wrote {page}: open it in a browser")
    return 0


@dataclass(frozen=True)
class _Example:
    picture: str
    heading: str
    rows: list[tuple[str, int, float, InsertionDeletion]]  # name, passes, seconds


def _explain(digits: TrainedDigits, digit: int, folder: Path) -> _Example:
    from captum_margin.attr import MarginSaliency
    from captum_margin.viz import visualize_comparison

    chosen = int((digits.labels == digit).nonzero()[0])
    image = digits.images[chosen : chosen + 1]
    with torch.no_grad():
        probabilities = digits.model(image).softmax(dim=1)[0]
    target = int(probabilities.argmax())

    maps: dict[str, Tensor] = {}
    costs: dict[str, tuple[int, float]] = {}
    started = time.perf_counter()
    maps[_MARGIN], details = MarginSaliency(digits.model).attribute(
        image,
        baselines=_BLANK,
        target=target,
        n_evaluations=_N_EVALUATIONS,
        return_details=True,
    )
    costs[_MARGIN] = details.n_forward, time.perf_counter() - started
    started = time.perf_counter()
    maps[_GRAD_CAM] = _grad_cam(digits, image, target)
    costs[_GRAD_CAM] = 1, time.perf_counter() - started

    curves = {
        name: insertion_deletion(
            digits.model,
            image,
            attribution,
            target,
            insertion_baseline=_BLANK,  # blurred, a digit is still read
            deletion_baseline=_BLANK,
        )
        for name, attribution in maps.items()
    }
    heading = f"taken for a {target} with probability {probabilities[target]:.3f}"
    figure, _ = visualize_comparison(image, maps, curves=curves, title=heading)
    picture = f"digit-{digit}.png"
    figure.savefig(folder / picture, dpi=110)
    rows = [(name, *costs[name], curves[name]) for name in maps]
    return _Example(picture, f"A {digit}, {heading}", rows)


def _grad_cam(digits: TrainedDigits, image: Tensor, target: int) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = digits.model[_LAST_ACTIVATION]
    coarse = LayerGradCam(digits.model, layer).attribute(
        image, target, relu_attributions=True
    )
    size = tuple(image.shape[2:])
    upsampled: Tensor = LayerAttribution.interpolate(coarse, size, "bilinear")
    return upsampled.detach()


def _page(training: str, examples: list[_Example]) -> str:
    sections = "\n".join(_section(example) for example in examples)
    used = ", ".join(
        f"{name} {version}" for name, version in package_versions().items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>captum_margin demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; border: 1px solid #ddd; }}
table {{ border-collapse: collapse; margin: .5rem 0 2.5rem; }}
th, td {{ padding: .2rem 1rem .2rem 0; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
footer {{ color: #666; font-size: .85rem; }}
@media (max-width: 32rem) {{ table {{ font-size: .75rem; }}
                            th, td {{ padding-right: .4rem; }} }}
</style>
</head>
<body>
<h1>Where does the net see the digit?</h1>
<p>{html.escape(training)} The heat maps show the places that speak for its answer. The
curves say how far to trust a map: if the pixels it calls important are put on a blank
page first (insertion) the score should rise early, and if they are wiped out first
(deletion) it should fall early. So a good map has a large area under the first curve
and a small one under the second.</p>
{sections}
<footer>{html.escape(used)}</footer>
</body>
</html>
"""


def _section(example: _Example) -> str:
    rows = "\n".join(
        f"<tr><td>{html.escape(name)}</td><td>{float(curves.insertion_auc[0]):.3f}</td>"
        f"<td>{float(curves.deletion_auc[0]):.3f}</td><td>{n_forward}</td>"
        f"<td>{seconds:.2f}</td></tr>"
        for name, n_forward, seconds, curves in example.rows
    )
    return f"""<h2>{html.escape(example.heading)}</h2>
<img src="{example.picture}" alt="{html.escape(example.heading)}: image, heat map,
overlay and curves, a row for each method">
<table>
<tr><th>method</th><th>insertion ↑</th><th>deletion ↓</th><th>forward passes</th>
<th>seconds</th></tr>
{rows}
</table>"""
