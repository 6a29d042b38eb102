"""``captum-margin explain``: images, a classifier, pictures and records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._files import replacing
from captum_margin.attr.margin import MIN_EVALUATIONS
from captum_margin.cli.classifier import Classifier, check_name, find_device, load
from captum_margin.cli.explain.explained import Explained, Explainer
from captum_margin.cli.explain.methods import METHODS, wrong_options
from captum_margin.cli.explain.records import (
    Found,
    Records,
    digest,
    find_images,
    index_row,
    request_of,
    write_index,
    write_json,
)
from captum_margin.cli.images import depth_notes, read_image
from captum_margin.cli.lookup import look_up
from captum_margin.cli.output import (
    CommandError,
    count,
    make_folder,
    one_line,
    package_versions,
    say,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_margin.metrics import InsertionDeletion

_N_TOP = 5

_DESCRIPTION = """\
Explain what an image classifier, torchvision's or your own, sees in photographs. For
every image the top classes are printed, and a picture (.png) and a record (.json) are
written. An image that cannot be read is reported and the others are still explained.
Of a folder all images in it and below are explained, and listed in index.csv; what has
been done for the same settings is kept, so that an interrupted run goes on where it
was.

A network of your own is named by a function without arguments that returns it, with
its weights: --model package.module:function, or path/to/file.py:function. The module is
run, and looked for in the current directory first. How it takes pictures is named in
the same way: --preprocess names a function from a PIL image to a tensor (C, H, W), or
an object such as a torchvision.transforms.Compose, or a function without arguments that
returns one. Weights in a FILE may be of any number of classes, and a checkpoint of
Lightning, DataParallel or torch.compile."""

_EPILOG = """\
examples:
  captum-margin explain cat.jpg
  captum-margin explain *.jpg --model resnet50 --out pictures --curves
  captum-margin explain dog.jpg --model squeezenet1_0 --weights weights.pt \\
      --target "golden retriever"
  captum-margin explain cat.jpg --prior gradcam --n-evaluations 100
  captum-margin explain cat.jpg --method representative --references photographs
  captum-margin explain photographs --out explained
  captum-margin explain cat.jpg --model resnet18 --weights pets.pt \\
      --class-names pets.txt
  captum-margin explain cat.jpg --model nets.py:build --preprocess nets.py:transform
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``explain`` to the commands of the parser."""
    parser = commands.add_parser(
        "explain",
        help="explain images with an image classifier",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE|FOLDER",
        help="photographs, or folders of them",
    )
    parser.add_argument(
        "--model",
        default="squeezenet1_0",
        metavar="NAME|MODULE:FUNCTION",
        help="name of a torchvision classifier, or of a function that returns a "
        "network (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        default="DEFAULT",
        metavar="FILE|DEFAULT",
        help="file with the model's state dict, or DEFAULT (or another name of "
        "torchvision's) to download it once; with MODULE:FUNCTION, DEFAULT is what it "
        "returns (default: %(default)s)",
    )
    parser.add_argument(
        "--preprocess",
        metavar="MODULE:FUNCTION",
        help="function from a PIL image to what the network takes, (C, H, W) (default: "
        "torchvision's for these weights; for a network of your own that for ImageNet)",
    )
    parser.add_argument(
        "--class-names",
        metavar="FILE|imagenet",
        help="names of the classes in the order of the outputs: a text, one a line, or "
        "a .json, a list or an object by index; or imagenet (default: torchvision's, "
        "if there are as many classes)",
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
        help="margin: what raises the score; representative: what the net sees alike "
        "in many images; coalition: what cannot be taken away (default: %(default)s)",
    )
    parser.add_argument(
        "--n-evaluations",
        type=_budget,
        metavar="N",
        help="margin: forward passes to spend on an image; fewer is faster and coarser "
        "(default: 800)",
    )
    parser.add_argument(
        "--prior",
        choices=("gradcam",),
        help="margin: begin with Grad-CAM's map, which needs the network's inside; "
        "--n-evaluations 100 is then a good budget (default: none)",
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
        "(default: the last stage with an extent in space; in a transformer the last "
        "layer of tokens before an attention)",
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
        "--maps",
        action="store_true",
        help="also save the maps (.npz, for captum_margin.Explanation.load)",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="explain anew the images of folders that have a record",
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
    if args.preprocess is not None:
        look_up(args.preprocess, "--preprocess")
    device = find_device(args.device)
    folder = make_folder(args.out)
    images = find_images(args.images, folder)
    args.many = any(found.in_folder for found in images)
    method = METHODS[args.method]
    look = args.many and not args.again
    records = Records(folder, request_of(args), ("", *method.pictures), look)
    # All that is kept is known before the model is loaded, let alone fitted.
    kept = _rows_kept(images, records)
    rows = {found.path: row for found, row in kept.items()}
    pending = [found for found in images if found not in kept]
    n_failed = 0
    try:
        if pending:
            n_failed = _explain_all(pending, records, rows, args, device)
    finally:
        if args.many:
            _report(images, rows, folder)
    return 1 if n_failed else 0


def _rows_kept(
    images: Sequence[Found], records: Records
) -> dict[Found, dict[str, Any]]:
    """Rows of the index, of images of folders that an earlier run explained."""
    rows = {}
    for found in images:
        earlier = records.kept(found.path) if found.in_folder else None
        if earlier is not None:
            rows[found] = index_row(found.path, "kept", *earlier)
    return rows


def _report(
    images: Sequence[Found], rows: dict[Path, dict[str, Any]], folder: Path
) -> None:
    """Writes the index, also of a run that is interrupted, and says what is in it."""
    ordered = [rows[found.path] for found in images if found.path in rows]
    index = write_index(folder, ordered)
    states = [row["status"] for row in ordered]
    counts = [
        f"{states.count(state)} {state}" for state in ("explained", "kept", "failed")
    ]
    say(f"{', '.join(counts)}, of {len(images)} images; see {index}")


def _explain_all(
    pending: Sequence[Found],
    records: Records,
    rows: dict[Path, dict[str, Any]],
    args: argparse.Namespace,
    device: torch.device,
) -> int:
    """Explains images, writes each record at once and its row; how many failed."""
    classifier = load(
        args.model, args.weights, device, args.preprocess, args.class_names
    )
    depths = depth_notes([found.path for found in pending], str)
    for note in [*classifier.notes, *depths]:
        say(note)
    target = None if args.target is None else classifier.class_index(args.target)
    explainer = METHODS[args.method].prepare(args, classifier)
    n_failed = 0
    hidden = not (args.many and sys.stderr.isatty())
    for found in tqdm(pending, desc="explain", unit="image", disable=hidden):
        path = found.path
        try:
            pixels = classifier.preprocess(read_image(path))[None].to(device)
            result = _explain(pixels, classifier, target, explainer, args)
            stem = records.stem(found)
            stem.parent.mkdir(parents=True, exist_ok=True)
            record = _write(path, result, classifier, args, records.request, stem)
        except Exception as error:  # a network of the user's may raise anything
            n_failed += 1
            known = isinstance(error, CommandError)
            what = str(error) if known else f"cannot explain {path}: {one_line(error)}"
            say(f"error: {what}", error=True)
            rows[path] = index_row(path, "failed", None, {}, what)
            continue
        rows[path] = index_row(path, "explained", stem, record)
        say("\n".join(_lines(path, stem, record, result, args.many)))
    return n_failed


@dataclass(frozen=True)
class _Result:
    pixels: Tensor  # (1, C, H, W), normalised
    explained: Explained
    probabilities: Tensor  # (number of classes,)
    target: int
    curves: InsertionDeletion | None
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
    explained = explainer(pixels, target)
    found = explained.explanation
    record = {
        "method": args.method,
        "settings": found.settings,
        "forward_passes": found.n_forward,
        "seconds": round(found.seconds or 0.0, 3),
        **explained.record,
    }
    curves = None
    if args.curves:
        from captum_margin.metrics import insertion_deletion

        curves = insertion_deletion(
            classifier.model, pixels, found.attributions, target
        )
        record["curves"] = _curves_record(curves)
    return _Result(pixels, explained, probabilities, target, curves, record)


def _curves_record(curves: InsertionDeletion) -> dict[str, Any]:
    return {
        "insertion_auc": float(curves.insertion_auc[0]),
        "deletion_auc": float(curves.deletion_auc[0]),
        "fractions": curves.fractions.tolist(),
        "insertion": curves.insertion[0].tolist(),
        "deletion": curves.deletion[0].tolist(),
        "forward_passes": curves.n_forward,
        "settings": curves.settings,
    }


def _write(
    path: Path,
    result: _Result,
    classifier: Classifier,
    args: argparse.Namespace,
    request: dict[str, Any],
    stem: Path,
) -> dict[str, Any]:
    """Writes the pictures, and last the record, which says that all is there."""
    target = _class_record(result.target, result, classifier)
    n_top = min(_N_TOP, len(result.probabilities))
    top = result.probabilities.topk(n_top).indices.tolist()
    figure = _figure(
        result,
        classifier,
        METHODS[args.method].title,
        f"{target['name']}: {target['probability']:.3f}",
    )
    picture = _beside(stem, ".png")
    _save(figure, picture)
    written: dict[str, Any] = {"picture": picture.name}
    further = []
    for ending, draw in result.explained.pictures.items():
        further.append(_beside(stem, f"{ending}.png"))
        _save(draw(), further[-1])
    if METHODS[args.method].pictures:
        written["further_pictures"] = [picture.name for picture in further]
    if args.maps:
        maps = _beside(stem, ".npz")
        result.explained.explanation.save(maps)
        written["maps"] = maps.name
    record = {
        "image": str(path),
        "image_sha256": digest(path),
        **written,
        "model": args.model,
        "weights": classifier.weights,
        **({} if args.preprocess is None else {"preprocess": args.preprocess}),
        "device": str(result.pixels.device),
        "input_shape": list(result.pixels.shape),
        "target": target,
        "top_classes": [_class_record(index, result, classifier) for index in top],
        **result.record,
        "request": request,
        "versions": package_versions(),
    }
    write_json(_beside(stem, ".json"), record)
    return record


def _class_record(
    index: int, result: _Result, classifier: Classifier
) -> dict[str, Any]:
    return {
        "index": index,
        "name": classifier.categories[index],
        "probability": round(float(result.probabilities[index]), 6),
    }


def _figure(result: _Result, classifier: Classifier, method: str, title: str) -> Figure:
    """The image, its map, the map over the image, and the curves if there are any."""
    from captum_margin.viz import visualize_comparison

    maps: Any = result.explained.explanation.attributions
    figure, _ = visualize_comparison(
        result.pixels,
        {method: maps},
        curves=None if result.curves is None else {method: result.curves},
        mean=classifier.mean,
        std=classifier.std,
        title=title,
    )
    return figure


def _lines(
    path: Path, stem: Path, record: dict[str, Any], result: _Result, many: bool
) -> list[str]:
    """What to print of an image: one line each where there are many."""
    target, top = record["target"], record["top_classes"]
    names = [record["picture"], *record.get("further_pictures", ())]
    names += [record["maps"]] if "maps" in record else []
    written = [*(stem.with_name(name) for name in names), _beside(stem, ".json")]
    if many:
        return [
            f"{path} -> {written[-1]}: {target['name']} {target['probability']:.3f}"
        ]
    lines = [f"{path} -> {', '.join(map(str, written))}"]
    for rank, entry in enumerate(top, start=1):
        mark = "  <- explained" if entry["index"] == target["index"] else ""
        lines.append(
            f"  {rank}. {entry['probability']:.3f}  {entry['name']} "
            f"({entry['index']}){mark}"
        )
    if target not in top:
        lines.append(
            f"     {target['probability']:.3f}  {target['name']} "
            f"({target['index']})  <- explained"
        )
    return lines + [f"  {line}" for line in result.explained.lines]


def _beside(stem: Path, ending: str) -> Path:
    # Not with_suffix, which would cut a name such as "cat.v2" at its dot.
    return stem.with_name(stem.name + ending)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _budget(text: str) -> int:
    if not text.isdecimal() or int(text) < MIN_EVALUATIONS:
        raise argparse.ArgumentTypeError(
            f"expected {MIN_EVALUATIONS} forward passes or more (got {text})"
        )
    return int(text)
