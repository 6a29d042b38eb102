"""``captum-margin audit``: a data set, some questions, tables and a page."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from captum_margin.cli.audit.arrays import read_npz
from captum_margin.cli.audit.browse import FIRST, WHOLE
from captum_margin.cli.audit.csv_files import write_csv
from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.folder import find_images, read_folder
from captum_margin.cli.audit.metric import Choice, measured
from captum_margin.cli.audit.page import write_page
from captum_margin.cli.audit.probabilities import Probabilities, read_probabilities
from captum_margin.cli.audit.questions import Answers, ask, unknown_classes
from captum_margin.cli.audit.table import read_csv
from captum_margin.cli.audit.why import Why, explain_suspects
from captum_margin.cli.classifier import check_name, find_device, load
from captum_margin.cli.lookup import look_up
from captum_margin.cli.output import (
    CommandError,
    count,
    make_folder,
    one_line,
    package_versions,
    say,
)

_MODEL, _WEIGHTS, _BATCH_SIZE = "squeezenet1_0", "DEFAULT", 32

_WRITTEN = (
    *("suspects.csv", "prototypes.csv", "criticisms.csv", "boundary.csv"),
    *("near_duplicates.csv", "unreadable.csv", "audit.json", "index.html"),
)

_DESCRIPTION = """\
Look through a data set: which labels may be wrong (suspects), which samples stand for
all (prototypes), which nothing stands for (criticisms), where the classes meet
(boundary), and which are almost the same (near duplicates), also under another label
or in another split. Writes a table (.csv) for each, a record (audit.json) and a page
with pictures and a map of all samples that needs nothing else (index.html); of more
than 50,000 samples it holds the first 10,000 of each question and their neighbours. Of
more than 100,000 samples the prototypes are chosen among as many at random. An image
that cannot be read is listed and left out.

DATA is one of
  a folder   with a folder of images for each class. They are run through a torchvision
             classifier, or a network of your own, and those are alike whose features
             are: what its last layer takes in. It need not know these classes, and
             weights from a FILE may have other ones, or none. Features are kept in
             features.npz, which can be audited in turn. If all folders in it are
             splits (train, training, val, valid, validation, dev, test, testing) and
             hold the folders of the classes, it is read so, and all splits together
             are looked through. Folders whose names begin with . or __ are left out,
             and files that are no images by their names; both are counted and named.
  a .csv     with tabs, semicolons or commas. Columns of numbers are the features, with
             points or decimal commas; the column label holds the labels; id or name
             names the samples. Without a header columns are called column 1, column 2,
             ... What is left out (text, comments, empty columns) is said.
  a .npz     with arrays features (N, ...) or images (N, H, W) or (N, H, W, C), and
             perhaps labels (N,), names (N,) and splits (N,). Images are shown; their
             pixels are the features if there are no others.

Whatever DATA is, samples are alike by the cosine of their features as they are, or by
the Euclidean distance of features that are each scaled to variance 1 (--metric): that
by which the nearest neighbours of 2,000 samples have more often the same label. A tie
goes to the cosine; without labels it is the distance."""

_EPILOG = """\
examples:
  captum-margin audit photographs
  captum-margin audit photographs --model resnet50 --top 100 --out audit
  captum-margin audit photographs --model nets.py:build --preprocess nets.py:transform
  captum-margin audit measurements.csv --labels species
  captum-margin audit digits.npz
  captum-margin audit digits.npz --pred-probs probabilities.csv
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``audit`` to the commands of the parser."""
    parser = commands.add_parser(
        "audit",
        help="find wrong labels, prototypes, outliers and boundary samples of a data "
        "set",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument(
        "--model",
        metavar="NAME|MODULE:FUNCTION",
        help="folder: name of a torchvision classifier, or of a function without "
        "arguments that returns a network, such as package.module:function or "
        f"path/to/file.py:function (default: {_MODEL})",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE|DEFAULT",
        help="folder: file with the model's state dict, or DEFAULT (or another name of "
        "torchvision's) to download it once; with MODULE:FUNCTION, DEFAULT is what it "
        f"returns (default: {_WEIGHTS})",
    )
    parser.add_argument(
        "--preprocess",
        metavar="MODULE:FUNCTION",
        help="folder: function from a PIL image to what the network takes, (C, H, W), "
        "of one size for all (default: torchvision's for these weights; for a network "
        "of your own that for ImageNet)",
    )
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="folder: layer whose output are the features, maps averaged over their "
        "positions, such as features.7 (default: what the last layer takes in)",
    )
    parser.add_argument(
        "--batch-size",
        type=count,
        metavar="N",
        help=f"folder: images in memory at once (default: {_BATCH_SIZE})",
    )
    parser.add_argument(
        "--device",
        help="folder: cpu, cuda, cuda:1, mps, ... (default: cuda if there is one)",
    )
    parser.add_argument(
        "--labels",
        metavar="NAME",
        help="csv, npz: column or array of the labels (default: label or labels)",
    )
    parser.add_argument(
        "--metric",
        choices=("auto", "cosine", "euclidean"),
        default="auto",
        help="what samples are alike by: the cosine of the features as they are, the "
        "euclidean distance of features scaled to variance 1, or auto, that by which "
        "neighbours agree more in their labels (default: %(default)s)",
    )
    parser.add_argument(
        "--pred-probs",
        type=Path,
        metavar="FILE",
        help="class probabilities of a model that had not learnt from the samples it "
        "is asked about (out of fold), a further vote on the labels: a .csv with the "
        "names of the classes as header and perhaps a column name, or a .npz with an "
        "array pred_probs (N, C) and perhaps names and classes; without names in the "
        "order of the samples",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        default=None,
        help="folder: make the maps of the suspects shown by hiding parts of the image "
        "(MarginSaliency), 800 passes through the network each, instead of by its last "
        "feature maps, one pass each; for any network",
    )
    parser.add_argument(
        "--top",
        type=count,
        default=50,
        metavar="N",
        help="samples of each list that the page shows; the tables hold all "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--prototypes",
        type=count,
        metavar="N",
        help="prototypes in all (default: 5 for each class, 20 at least)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captum-margin-audit"),
        metavar="DIR",
        help="folder to write to, created if missing (default: %(default)s)",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Audits the data; returns 0, or 1 if a question could not be answered.

    Raises:
        CommandError: If nothing can be audited: data, model, weights, layer, device or
            output folder.
    """
    started = time.perf_counter()
    kind = _kind(args)
    given: Probabilities | None = None
    if args.pred_probs is not None:  # before the features, which take long
        given = read_probabilities(args.pred_probs)
    data = _read(args, kind)
    for name in _WRITTEN:  # of an earlier run, which nothing here would replace
        (args.out / name).unlink(missing_ok=True)
    for note in data.notes:
        say(note)
    if data.unreadable:
        _write(args.out / "unreadable.csv", ("name", "reason"), data.unreadable)
    if len(data.names) < 2:
        raise CommandError(f"expected two samples or more (got 1): {args.data}")
    seconds = {"reading": round(time.perf_counter() - started, 3)}
    data, choice = measured(data, args.metric)
    say(f"alike by: {choice.told()}")
    probabilities = None if given is None else given.of(data)
    progress = sys.stderr.isatty()
    answers = ask(data, args.prototypes, args.out, progress, probabilities)
    explaining = time.perf_counter()
    why = explain_suspects(data, answers, args.top, bool(args.explain), progress)
    seconds["maps"] = round(time.perf_counter() - explaining, 3)
    for question, error in answers.errors.items():
        say(f"error: no {question}: {error}", error=True)
    page = args.out / "index.html"
    paging = time.perf_counter()
    try:
        made = _made(args, data, answers, choice, why)
        write_page(page, data, answers, made, args.top, why)
    except OSError as error:
        raise CommandError(f"cannot write {page}: {one_line(error)}") from None
    seconds["page"] = round(time.perf_counter() - paging, 3)
    seconds["all"] = round(time.perf_counter() - started, 3)
    _write_record(args, kind, data, answers, why, seconds)
    _report(data, answers, page)
    return 1 if answers.errors else 0


def _kind(args: argparse.Namespace) -> str:
    """What the data are; stops with a usage error if an option does not go with it."""
    path = args.data
    if not path.exists():
        raise CommandError(f"no such file or folder: {path}")
    suffix = path.suffix.lower()
    if not path.is_dir() and suffix not in (".csv", ".npz"):
        raise CommandError(f"expected a folder, a .csv or a .npz (got {path})")
    kind = "folder" if path.is_dir() else suffix[1:]
    of_folders = (
        *("model", "weights", "preprocess", "layer"),
        *("batch_size", "device", "explain"),
    )
    for option in ("labels",) if kind == "folder" else of_folders:
        if getattr(args, option) is not None:
            args.usage_error(
                f"--{option.replace('_', '-')} does not go with a {kind} (got {path})"
            )
    return kind


def _read(args: argparse.Namespace, kind: str) -> AuditData:
    if kind != "folder":
        make_folder(args.out)
        reader = read_csv if kind == "csv" else read_npz
        data = reader(args.data, args.labels)
        if data.labels is not None and not data.has_classes:
            (name,) = data.classes
            data.notes.append(f"one class only ({name}), so no question about labels")
        return data
    name = args.model or _MODEL
    check_name(name)
    if args.preprocess is not None:
        look_up(args.preprocess, "--preprocess")
    device = find_device(args.device)
    images = find_images(args.data)
    make_folder(args.out)
    weights = args.weights or _WEIGHTS
    classifier = load(name, weights, device, args.preprocess, None, False)
    data = read_folder(
        images,
        classifier,
        args.layer,
        args.batch_size or _BATCH_SIZE,
        sys.stderr.isatty(),
    )
    data.record["model"] = name
    if args.preprocess is not None:
        data.record["preprocess"] = args.preprocess
    # The dear part: it need not be done twice, whatever comes.
    arrays: dict[str, Any] = {
        "features": data.features.numpy(),
        "names": np.array(data.names),
    }
    if data.labels is not None:
        arrays["labels"] = np.array(data.classes)[data.labels.numpy()]
    if data.splits:
        arrays["splits"] = np.array(data.splits)
    try:
        np.savez(args.out / "features.npz", **arrays)
    except OSError as error:
        raise CommandError(f"cannot write features.npz: {one_line(error)}") from None
    return data


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, str]]) -> None:
    try:
        write_csv(path, header, rows)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {one_line(error)}") from None


def _made(
    args: argparse.Namespace,
    data: AuditData,
    answers: Answers,
    choice: Choice,
    why: Why,
) -> dict[str, str]:
    """How it was made, for the reader of the page."""
    made = {"Data": str(args.data)}
    keys = ("model", "weights", "preprocess", "layer", "device", "label_column")
    for key in keys:
        if data.record.get(key):
            made[key.replace("_", " ").capitalize()] = str(data.record[key])
    if args.pred_probs is not None:
        made["Probabilities"] = str(args.pred_probs)
    made["Features"] = f"{data.features.shape[1]:,} per sample"
    made["Alike by"] = choice.told()
    for name, entry in answers.record.items():
        settings = entry["settings"]
        told = ("n", "k", "metric", "bandwidth", "shift", "estimate", "threshold")
        made[name.capitalize()] = ", ".join(
            f"{key} = {_short(settings[key])}"
            for key in told
            if settings.get(key) is not None
        )
    if why.record is not None:
        made["Maps"] = why.told()
    for metric, search in answers.searches.items():
        recall = search["recall"]
        share = "all" if recall is None else f"{recall['value']:.1%}"
        found = f"{share} of the {search['k']} nearest by {search['backend']} search"
        made[f"Neighbours, {metric}"] = found
    used = package_versions().items()
    made["Versions"] = ", ".join(f"{name} {version}" for name, version in used)
    return made


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_record(
    args: argparse.Namespace,
    kind: str,
    data: AuditData,
    answers: Answers,
    why: Why,
    seconds: dict[str, float],
) -> None:
    issue = answers.is_issue
    record: dict[str, Any] = {
        "data": str(args.data),
        "kind": kind,
        **data.record,
        "n_samples": len(data.names),
        "n_features": data.features.shape[1],
        "classes": _sizes(data),
        "splits": dict(sorted(Counter(data.splits).items())),
        "n_unreadable": len(data.unreadable),
        "n_suspects": None if issue is None else int(issue.sum()),
        "knowledge": answers.knowledge(data),
        "pred_probs": None if args.pred_probs is None else str(args.pred_probs),
        "maps": why.record,
        "near_duplicates": answers.duplicates and answers.duplicates.record(),
        "searches": answers.searches,
        "questions": answers.record,
        "errors": answers.errors,
        "warnings": answers.warnings,
        "notes": data.notes,
        "seconds": seconds,
        "versions": package_versions(),
    }
    path = args.out / "audit.json"
    try:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {one_line(error)}") from None


def _sizes(data: AuditData) -> dict[str, int] | None:
    if data.labels is None:
        return None
    sizes = data.labels.bincount(minlength=len(data.classes)).tolist()
    return dict(zip(data.classes, sizes, strict=True))


def _report(data: AuditData, answers: Answers, page: Path) -> None:
    """Says what was found and where it lies."""
    n, classes = len(data.names), len(data.classes)
    within = f" in {classes:,} classes" if data.has_classes else ""
    say(f"{n:,} samples{within}, {data.features.shape[1]:,} features each")
    if data.unreadable:
        first, reason = data.unreadable[0]
        more = "" if len(data.unreadable) == 1 else ", ..."
        say(f"{len(data.unreadable):,} unreadable, left out: {first}: {reason}{more}")
    _report_suspects(data, answers)
    if answers.duplicates is not None:
        say(f"near duplicates: {answers.duplicates.told()}")
    say(f"tables: {', '.join(str(path) for path in answers.files)}")
    say(f"page: {page}")
    if n > WHOLE:
        say(f"it shows the first {FIRST:,} of each question; the tables hold all")


def _report_suspects(data: AuditData, answers: Answers) -> None:
    """What is said of the labels, and how much that is worth."""
    issue = answers.is_issue
    if answers.suspects is None or issue is None:
        return
    say(f"suspects: {int(issue.sum()):,} labels that the others contradict")
    known = answers.suspects.knowledge
    if known is not None and bool(known.known.any()):
        say(f"known: {known}; probably wrong: {known.n_wrong:,}")
        unknown = unknown_classes(data, known)
        if unknown:
            say(f"not known, so never called wrong: {', '.join(unknown)}")
    for warning in answers.warnings:
        say(f"warning: {warning}")
