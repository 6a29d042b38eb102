"""``captum-margin explain``: images, a torchvision classifier, pictures and records."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_margin.attr.margin_saliency import MIN_EVALUATIONS
from captum_margin.cli._classifier import Classifier, check_name, find_device, load
from captum_margin.cli._explanation import Explainer, Explanation
from captum_margin.cli._images import read_image
from captum_margin.cli._methods import METHODS, wrong_options
from captum_margin.cli._output import (
    CommandError,
    count,
    make_folder,
    one_line,
    versions,
)

_N_TOP = 5

_DESCRIPTION = """\
Explain what a torchvision classifier sees in photographs. For every image the top
classes are printed, and a picture (.png) and a record (.json) are written. An image
that cannot be read is reported and the others are still explained."""

_EPILOG = """\
examples:
  captum-margin explain cat.jpg
  captum-margin explain *.jpg --model resnet50 --out pictures --curves
  captum-margin explain dog.jpg --model squeezenet1_0 --weights weights.pt \\
      --target "golden retriever"
  captum-margin explain cat.jpg --method representative --references photographs
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``explain`` to the commands of the parser."""
    parser = commands.add_parser(
        "explain",
        help="explain images with a torchvision classifier",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--model",
        default="squeezenet1_0",
        help="name of a torchvision classifier (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        metavar="FILE|DEFAULT",
        help="file with the model's state dict, or DEFAULT (or another name of "
        "torchvision's) to download it once (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class to explain, by index or name (default: each image's top class)",
    )
    parser.add_argument(
        "--method",
        choices=sorted(METHODS),
        default="margin",
        help="attribution method (default: %(default)s)",
    )
    parser.add_argument(
        "--n-evaluations",
        type=_budget,
        metavar="N",
        help="margin: forward passes to spend on an image; fewer is faster and coarser "
        "(default: 800)",
    )
    parser.add_argument(
        "--references",
        type=Path,
        metavar="FOLDER",
        help="representative: folder of images that the network knows, some hundreds "
        "of each class that matters; folders within are searched too",
    )
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="representative: layer whose maps are weighted, such as features.12 "
        "(default: the last stage of the network with an extent in space)",
    )
    parser.add_argument(
        "--n-boundaries",
        type=count,
        metavar="Q",
        help="representative: decision boundaries to sample from the references; more "
        "separate classes better (default: 50)",
    )
    parser.add_argument(
        "--n-coalitions",
        type=count,
        metavar="N",
        help="coalition: regions of like deep features to divide an image into, at "
        "most (default: 16)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of what the method draws at random (default: %(default)s)",
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps, ... (default: cuda if there is one)"
    )
    parser.add_argument(
        "--curves",
        action="store_true",
        help="measure insertion and deletion, draw and record them (at most 113 more "
        "forward passes)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captum-margin-explain"),
        metavar="DIR",
        help="folder to write to, created if missing (default: %(default)s)",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Explains every image; returns 0, or 1 if an image could not be explained.

    Raises:
        CommandError: If nothing can be explained: model, weights, class, device,
            output folder, or what the method takes (references, layer).
    """
    problem = wrong_options(args)
    if problem is not None:
        args.usage_error(problem)
    check_name(args.model)
    device = find_device(args.device)
    folder = make_folder(args.out)
    classifier = load(args.model, args.weights, device)
    target = None if args.target is None else classifier.class_index(args.target)
    method = METHODS[args.method]
    explainer = method.prepare(args, classifier)
    n_failed = 0
    taken: set[str] = set()
    for path in args.images:
        try:
            pixels = classifier.preprocess(read_image(path))[None].to(device)
            result = _explain(pixels, classifier, target, explainer, args)
            stem = folder / _free_stem(path, ("", *method.pictures), taken)
            _report(path, result, classifier, args, stem)
        except CommandError as error:
            n_failed += 1
            print(f"captum-margin: error: {error}", file=sys.stderr)
        except (OSError, RuntimeError, ValueError) as error:
            n_failed += 1
            print(
                f"captum-margin: error: cannot explain {path}: {one_line(error)}",
                file=sys.stderr,
            )
    return 1 if n_failed else 0


@dataclass(frozen=True)
class _Result:
    pixels: Tensor  # (1, C, H, W), normalised
    explanation: Explanation
    probabilities: Tensor  # (number of classes,)
    target: int
    curves: Any  # InsertionDeletion or None
    record: dict[str, Any]


def _explain(
    pixels: Tensor,
    classifier: Classifier,
    target: int | None,
    explainer: Explainer,
    args: argparse.Namespace,
) -> _Result:
    with torch.no_grad():
        probabilities = classifier.model(pixels)[0].softmax(dim=0)
    if target is None:
        target = int(probabilities.argmax())
    started = time.perf_counter()
    explanation = explainer(pixels, target)
    seconds = time.perf_counter() - started
    record = {
        "method": args.method,
        "settings": explanation.settings,
        "forward_passes": explanation.n_forward,
        "seconds": round(seconds, 3),
        **explanation.record,
    }
    curves = None
    if args.curves:
        from captum_margin.metrics import insertion_deletion

        curves = insertion_deletion(
            classifier.model, pixels, explanation.attribution, target
        )
        record["curves"] = {
            "insertion_auc": float(curves.insertion_auc[0]),
            "deletion_auc": float(curves.deletion_auc[0]),
            "fractions": curves.fractions.tolist(),
            "insertion": curves.insertion[0].tolist(),
            "deletion": curves.deletion[0].tolist(),
            "forward_passes": curves.n_forward,
            "settings": curves.settings,
        }
    return _Result(pixels, explanation, probabilities, target, curves, record)


def _report(
    path: Path,
    result: _Result,
    classifier: Classifier,
    args: argparse.Namespace,
    stem: Path,
) -> None:
    from captum_margin.viz import visualize_comparison

    def describe(index: int) -> dict[str, Any]:
        return {
            "index": index,
            "name": classifier.categories[index],
            "probability": round(float(result.probabilities[index]), 6),
        }

    target = describe(result.target)
    top = [describe(int(i)) for i in result.probabilities.topk(_N_TOP).indices]
    # Not with_suffix, which would cut a name such as "cat.v2" at its dot.
    picture = stem.with_name(f"{stem.name}.png")
    record = stem.with_name(f"{stem.name}.json")
    title = METHODS[args.method].title
    figure, _ = visualize_comparison(
        result.pixels,
        {title: result.explanation.attribution},
        curves=None if result.curves is None else {title: result.curves},
        mean=classifier.mean,
        std=classifier.std,
        title=f"{target['name']}: {target['probability']:.3f}",
    )
    figure.savefig(picture, dpi=120)
    written = [picture]
    for ending, draw in result.explanation.pictures.items():
        written.append(stem.with_name(f"{stem.name}{ending}.png"))
        draw().savefig(written[-1], dpi=120)
    further = {"further_pictures": [path.name for path in written[1:]]}
    contents = {
        "image": str(path),
        "picture": picture.name,
        **(further if METHODS[args.method].pictures else {}),
        "model": args.model,
        "weights": classifier.weights,
        "device": str(result.pixels.device),
        "input_shape": list(result.pixels.shape),
        "target": target,
        "top_classes": top,
        **result.record,
        "versions": versions(),
    }
    record.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")

    print(f"{path} -> {', '.join(map(str, [*written, record]))}")
    for rank, entry in enumerate(top, start=1):
        mark = "  <- explained" if entry["index"] == result.target else ""
        print(
            f"  {rank}. {entry['probability']:.3f}  {entry['name']} "
            f"({entry['index']}){mark}"
        )
    if result.target not in [entry["index"] for entry in top]:
        print(
            f"     {target['probability']:.3f}  {target['name']} "
            f"({target['index']})  <- explained"
        )
    for line in result.explanation.lines:
        print(f"  {line}")


def _free_stem(path: Path, endings: Sequence[str], taken: set[str]) -> str:
    """Returns a file name that with all its endings no other image of this run has."""
    stem, copy = path.stem, 2
    while taken & {stem + ending for ending in endings}:
        stem, copy = f"{path.stem}-{copy}", copy + 1
    taken |= {stem + ending for ending in endings}
    return stem


def _budget(text: str) -> int:
    if not text.isdecimal() or int(text) < MIN_EVALUATIONS:
        raise argparse.ArgumentTypeError(
            f"expected {MIN_EVALUATIONS} forward passes or more (got {text})"
        )
    return int(text)
