"""Representative interpretations by the protocol of their paper's Table 1.

Lam et al., ICCV 2021, section 6: reference images are clustered by k-means in the space
of the last feature map, into ten clusters a class; the reference nearest to each centre
is interpreted. An unseen image takes the polytope that covers it, else its nearest
centre's. Peers have the channel weights of the same references, each unseen image those
of its nearest centre (6.1); ACE has concepts of each cluster's images. Average drop and
increase (6.2) when the top 20% of the pixels are kept, black elsewhere.

The paper fine-tunes VGG-19 on 25,000 photographs of dogs and cats and takes 2,500
references of each and 1,000 unseen ones. Here: SqueezeNet 1.0 and EfficientNet-Lite0
with new fully connected layers for the 3,000 photographs there are, all 1,200 training
images of each kind as references, all 600 others unseen. So a run differs from another
by the draw of the boundaries and the start of k-means, not by the images.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.representative.protocol --cache DIR

What is in the cache is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_margin.attr import RepresentativeInterpretation
from captum_margin.attr.representative import Interpretation, InterpretationBank
from tests.benchmarks.machine import machine, versions
from tests.benchmarks.photographs import load_image
from tests.benchmarks.records import RESULTS
from tests.benchmarks.representative import ace
from tests.benchmarks.representative.bench import (
    CHUNK,
    KEEP,
    Upper,
    cam,
    drops_of,
    grad_cam_pp_weights,
    grad_cam_weights,
    score_cam_weights,
)
from tests.benchmarks.representative.models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Task,
    feature_maps,
    load_task,
)

OUT = RESULTS / "representative_protocol.json"
COMMAND = "python -m tests.benchmarks.representative.protocol"
TASKS = ("cats_dogs_deep", "cats_dogs_efficientnet")
N_UNSEEN = 1000  # or all there are
N_BOUNDARIES = (50, 10, 200)  # the first is the paper's
# Runs of each group of methods; Score-CAM takes 512 or 1,280 passes a centre.
RUNS = {
    "cats_dogs_deep": {
        "bank": 3,
        "peers": 3,
        "boundaries": 2,
        "default": 1,
        "ace": 2,
        "score_cam": 1,
    },
    "cats_dogs_efficientnet": {"bank": 2, "peers": 2, "boundaries": 1},
}
GROUPS = tuple(RUNS["cats_dogs_deep"])
# ACE looks at some sixty segments an image: at those of fewer images.
ACE_REFERENCES, ACE_UNSEEN = 100, 100
PAPER = {"relu_attributions": True, "paper": True}
OURS = "RI, |Q| = 50"
PEER = "Grad-CAM"


class Data:
    """A task's images, as every run has them."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder, self.upper = task, folder, Upper(task.model)
        everything = torch.arange(len(task.train_images))
        self.references = feature_maps(task, "train", everything, folder)
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(task.test_images))[:N_UNSEEN]
        self.chosen = torch.from_numpy(chosen)
        self.unseen = task.test_images[self.chosen]
        self.maps = feature_maps(task, "test", self.chosen, folder)
        pool = rng.permutation(len(task.train_images))[:ACE_REFERENCES]
        self.pool = torch.from_numpy(np.sort(pool))
        with torch.no_grad():
            head = task.model.head
            self.predicted = torch.cat(
                [head(x).argmax(dim=1) for x in self.references.split(256)]
            )
            self.output = torch.cat([head(x) for x in self.maps.split(256)])

    def bank(self, seed: int) -> InterpretationBank:
        """The paper's bank of one run, with its number of boundaries."""
        bank = self.explainer(seed, N_BOUNDARIES[0]).bank(10, seed=seed, paper=True)
        which = bank.assign(self.maps).which
        torch.save((bank.centers, bank.means, which), self._path(seed))
        return bank

    def centres(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """References of the bank, means of the clusters, what unseen images take."""
        if not self._path(seed).exists():
            self.bank(seed)
        centers, means, which = torch.load(self._path(seed), weights_only=True)
        return centers, means, which

    def _path(self, seed: int) -> Path:
        return self.folder / f"{self.task.name}_centres_{seed}.pt"

    def explainer(self, seed: int, n_boundaries: int) -> RepresentativeInterpretation:
        explainer = RepresentativeInterpretation(self.upper, self.upper.feature_map)
        return explainer.fit(self.references, n_boundaries=n_boundaries, seed=seed)

    def score(self, method: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Drop and increase of every unseen image."""
        drops, increases, _ = drops_of(
            self.task, self.unseen, self.maps, self.output, method
        )
        return {"drop": drops, "increase": increases}

    def score_maps(self, heat: Tensor) -> dict[str, Any]:
        """The same of heat maps that are made already, (n, 1, h, w)."""
        parts = iter(heat.split(CHUNK))
        return self.score(lambda maps, classes: next(parts))


def nearest(maps: Tensor, means: Tensor) -> Tensor:
    """The centre that each feature map is nearest to."""
    return torch.cdist(maps.flatten(1), means.flatten(1)).argmin(dim=1)


def under(
    interpretations: Sequence[Interpretation], maps: Tensor, which: Tensor
) -> Tensor:
    """The paper's heat maps of images, each under one of the interpretations."""
    heat = maps.new_zeros(len(maps), 1, *maps.shape[2:])
    for number in which.unique().tolist():
        mine = which == number
        heat[mine] = interpretations[number].attribute(maps[mine], **PAPER)
    return heat


def covering(
    interpretations: Sequence[Interpretation], means: Tensor, maps: Tensor
) -> tuple[Tensor, Tensor]:
    """Section 6.4 again, from interpretations one by one: which, and whether covered.

    The purest first, of those alike the one that covers most, as in a bank.
    """
    order = sorted(
        range(len(interpretations)),
        key=lambda i: (-interpretations[i].purity, -len(interpretations[i].covered)),
    )
    which, covered = nearest(maps, means), torch.zeros(len(maps), dtype=torch.bool)
    for number in order:
        mine = interpretations[number].covers(maps) & ~covered
        which[mine] = number
        covered |= mine
    return which, covered


def describe(
    data: Data,
    interpretations: Sequence[Interpretation],
    which: Tensor,
    covered: Tensor,
) -> dict[str, Any]:
    """What a bank's interpretations are, and which of them the unseen images take."""
    classes = torch.tensor([one.predicted for one in interpretations])
    n_boundaries = [len(one.boundaries.bias) for one in interpretations]
    n_covered = [len(one.covered) for one in interpretations]
    return {
        "interpretations": len(interpretations),
        "interpretations_used": len(which.unique()),
        "unseen_covered": covered.double().mean().item(),
        **alike(data, classes[which]),
        "boundaries": float(np.mean(n_boundaries)),
        "references_covered": float(np.mean(n_covered)),
        "purity": float(np.mean([one.purity for one in interpretations])),
    }


def banks(data: Data, seed: int) -> dict[str, Any]:
    """Ours, by the paper."""
    bank = data.bank(seed)
    which, covered = bank.assign(data.maps)
    assert bank.means is not None
    again = covering(list(bank), bank.means, data.maps)
    assert torch.equal(again[0], which) and torch.equal(again[1], covered)
    return {
        OURS: data.score(lambda maps, _: bank.attribute(maps, **PAPER))
        | describe(data, list(bank), which, covered)
        | {"distinct_centres": len(bank.centers.unique())}
    }


def boundaries(data: Data, seed: int) -> dict[str, Any]:
    """Ours at the same centres, with fewer boundaries and with more."""
    centers, means, _ = data.centres(seed)
    found = {}
    for n_boundaries in N_BOUNDARIES[1:]:
        explainer = data.explainer(seed, n_boundaries)
        ones = [explainer.interpret(x[None]) for x in data.references[centers]]
        which, covered = covering(ones, means, data.maps)
        heat = under(ones, data.maps, which)
        found[f"RI, |Q| = {n_boundaries}"] = data.score_maps(heat) | describe(
            data, ones, which, covered
        )
    return found


def default(data: Data, seed: int) -> dict[str, Any]:
    """The paper's interpretations by nearest centre alone; and the default bank."""
    centers, means, _ = data.centres(seed)
    explainer = data.explainer(seed, N_BOUNDARIES[0])
    ones = [explainer.interpret(x[None]) for x in data.references[centers]]
    heat = under(ones, data.maps, nearest(data.maps, means))
    found = {"RI, nearest centre alone": data.score_maps(heat)}
    bank = explainer.bank(10, seed=seed)
    for form, relu in {"signed": False, "evidence for": True}.items():
        classes = data.output.argmax(dim=1)
        heat = bank.attribute(data.maps, classes, relu_attributions=relu)
        found[f"default bank, {form}"] = data.score_maps(heat)
    return found


def peers(data: Data, seed: int) -> dict[str, Any]:
    """CAMs with the channel weights of the nearest centre's reference.

    Grad-CAM also with those of the reference whose interpretation ours takes, so that
    the weights differ alone.
    """
    centers, means, same = data.centres(seed)
    head = data.task.model.head
    maps, classes = data.references[centers], data.predicted[centers]
    plain = grad_cam_weights(head, maps, classes)
    plus = grad_cam_pp_weights(head, maps, classes)
    which = nearest(data.maps, means)
    weights = {PEER: plain[which], "Grad-CAM++": plus[which]}
    weights[f"{PEER}, assigned as ours"] = plain[same]
    found = {name: data.score_maps(cam(data.maps, w)) for name, w in weights.items()}
    found[PEER] |= alike(data, classes[which])
    return found


def alike(data: Data, classes: Tensor) -> dict[str, float]:
    """How many unseen images are predicted as the reference that explains them."""
    share = (classes == data.output.argmax(dim=1)).double().mean().item()
    return {"unseen_explained_as_predicted": share}


def score_cam(data: Data, seed: int) -> dict[str, Any]:
    """Score-CAM likewise; the weights of a reference are kept for other runs."""
    centers, means, _ = data.centres(seed)
    which = nearest(data.maps, means)
    task, weights = data.task, torch.zeros(len(centers), data.maps.shape[1])
    for number in which.unique().tolist():
        center = int(centers[number])
        path = data.folder / f"{task.name}_score_cam_{center}.pt"
        if not path.exists():
            image = task.normalize(task.train_images[center, None])
            classes = data.predicted[center, None]
            torch.save(score_cam_weights(task.model, image, classes), path)
        weights[number] = torch.load(path, weights_only=True)[0]
    return {"Score-CAM": data.score_maps(cam(data.maps, weights[which]))}


def concepts(data: Data, seed: int) -> dict[str, Any]:
    """ACE: concepts of each cluster's images, for the unseen images nearest to it."""
    _, means, _ = data.centres(seed)
    task, head = data.task, data.task.model.head
    ours = ace.segments(task, "train", data.pool, data.folder)
    theirs = ace.segments(task, "test", data.chosen[:ACE_UNSEEN], data.folder)
    pool = data.references[data.pool]
    distances = torch.cdist(pool.flatten(1), means.flatten(1))
    cluster = distances.argmin(dim=1)
    which = nearest(data.maps[:ACE_UNSEEN], means)
    side = task.test_images.shape[-1]
    masks = torch.zeros(ACE_UNSEEN, side, side, dtype=torch.bool)
    n_concepts, n_significant = [], []
    for number in which.unique().tolist():
        members = (cluster == number).nonzero()[:, 0]
        if len(members) < ace.LEAST_IMAGES:
            members = distances[:, number].argsort()[: ace.LEAST_IMAGES]
        target = int(data.predicted[data.pool[members]].mode().values)
        rows = ours.of(data.pool[members])
        found = ace.discover(
            head,
            ours.pooled[rows],
            ours.image[rows],
            random_sets(data),
            pool[members],
            target,
            seed,
        )
        n_concepts.append(int((~found.importance.isnan()).sum()))
        n_significant.append(int((found.importance > 0).sum()))
        for position in (which == number).nonzero()[:, 0].tolist():
            rows = theirs.of(data.chosen[position])
            masks[position] = ace.kept_pixels(
                found, theirs.pooled[rows], theirs.masks[rows], KEEP, side
            )
    return {
        "ACE": masked(data, masks)
        | {
            "pixels_kept": masks.double().mean().item(),
            "concepts": float(np.mean(n_concepts)),
            "significant_concepts": float(np.mean(n_significant)),
            "interpretations_used": len(n_concepts),
        }
    }


def random_sets(data: Data) -> list[Tensor]:
    """Pooled maps of ImageNet photographs, for chance."""
    path = data.folder / f"{data.task.name}_random.pt"
    if not path.exists():
        folder = Path(os.environ["CAPTUM_MARGIN_DATA"]) / "imagenet_sample"
        number = ace.N_RANDOM * ace.LARGEST
        photographs = torch.cat([load_image(p) for p in sorted(folder.glob("*.jpg"))])
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        pixels = (255 * (photographs * std + mean)).round().clamp(0, 255)
        order = np.random.default_rng(0).permutation(len(pixels))[:number]
        pixels = pixels[torch.from_numpy(order)].to(torch.uint8)
        torch.save(ace.pooled_maps(data.task, pixels), path)
    pooled: Tensor = torch.load(path, weights_only=True)
    return list(pooled.split(ace.LARGEST))


@torch.no_grad()
def masked(data: Data, masks: Tensor) -> dict[str, Any]:
    """Drop and increase of the first unseen images, some of their pixels kept."""
    task = data.task
    whole = data.output[: len(masks)].softmax(dim=1)
    scores, classes = whole.max(dim=1)
    kept = []
    for mask, images in zip(masks.split(20), data.unseen.split(20), strict=False):
        x = torch.where(mask[:, None], task.normalize(images[: len(mask)]), task.black)
        kept.append(task.model(x).softmax(dim=1))
    of_kept = torch.cat(kept).gather(1, classes[:, None])[:, 0]
    drop = (scores - of_kept).clamp(min=0) / scores
    return {"drop": drop.tolist(), "increase": (of_kept > scores).tolist()}


MAKERS = {
    "bank": banks,
    "peers": peers,
    "boundaries": boundaries,
    "default": default,
    "ace": concepts,
    "score_cam": score_cam,
}


def record_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"protocol.{name}.{seed}.json"


def run(options: argparse.Namespace) -> None:
    """Every group of every run that the cache has not."""
    for name in options.tasks:
        task = load_task(name, Path(os.environ["CAPTUM_MARGIN_DATA"]), options.cache)
        data = Data(task, options.cache)
        for seed in range(RUNS[name]["bank"]):
            path = record_path(options.cache, name, seed)
            record = json.loads(path.read_text()) if path.exists() else {}
            for group in options.groups:
                if group not in record and seed < RUNS[name].get(group, 0):
                    record[group] = MAKERS[group](data, seed)
                    path.write_text(json.dumps(record))
                    print(f"{name}, run {seed}: {group}", flush=True)


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A method's drop and increase in percent, over the images and over the runs."""
    found: dict[str, Any] = {"runs": len(rows), "images": len(rows[0]["drop"])}
    for key, name in {"drop": "average_drop", "increase": "average_increase"}.items():
        values = 100 * np.array([row[key] for row in rows], dtype=float)
        found[name] = mean_and_error(values.mean(axis=0))
        if len(rows) > 1:
            spread = values.mean(axis=1).std(ddof=1)
            found[name]["standard_deviation_of_runs"] = float(spread)
    for key in rows[0]:
        if key not in ("drop", "increase"):
            found[key] = float(np.mean([row[key] for row in rows]))
    return found


def paired(rows: Sequence[dict[str, Any]], than: Sequence[dict[str, Any]]) -> Any:
    """A method's figures minus another's, image by image, over the runs of both."""
    n_runs, n = min(len(rows), len(than)), len(than[0]["drop"])
    found = {}
    for key, name in {"drop": "average_drop", "increase": "average_increase"}.items():
        ours, theirs = (
            100 * np.array([row[key][:n] for row in side[:n_runs]], dtype=float)
            for side in (rows, than)
        )
        found[name] = mean_and_error((ours - theirs).mean(axis=0))
    return found


def mean_and_error(values: np.ndarray[Any, Any]) -> dict[str, float]:
    error = values.std(ddof=1) / len(values) ** 0.5
    return {"mean": float(values.mean()), "standard_error": float(error)}


def report(options: argparse.Namespace) -> None:
    """Writes the record of the runs that are done."""
    tasks = {}
    for name in options.tasks:
        seeds = range(RUNS[name]["bank"])
        paths = [record_path(options.cache, name, seed) for seed in seeds]
        records = [json.loads(path.read_text()) for path in paths if path.exists()]
        columns: dict[str, list[Any]] = {}
        for group in (group for record in records for group in record.values()):
            for method, row in group.items():
                columns.setdefault(method, []).append(row)
        if not columns:
            continue
        net = torch.load(options.cache / f"{name}.pt", weights_only=True)
        tasks[name] = {
            "test_accuracy": net["accuracy"],
            "references": 2400,
            "methods": {method: figures(rows) for method, rows in columns.items()},
            "ours_minus": {
                method: paired(columns[OURS], rows)
                for method, rows in columns.items()
                if method != OURS
            },
        }
        for method, row in tasks[name]["methods"].items():
            drop, rise = (row[k] for k in ("average_drop", "average_increase"))
            print(
                f"{name} | {method} | {drop['mean']:.2f} ± {drop['standard_error']:.2f}"
                f" | {rise['mean']:.1f} ± {rise['standard_error']:.1f} | {row['runs']}"
            )
    settings = {
        "command": f"{COMMAND} {options.words}",
        "seeds": "0, 1, ...",
        "runs": RUNS,
        "pixels": f"the top {KEEP:.0%} kept, black elsewhere",
        "unit": (
            "percent; mean and standard error over the unseen images, of each's mean"
            " over the runs; standard deviation over the runs"
        ),
        "ace": {
            "references": ACE_REFERENCES,
            "unseen_images": ACE_UNSEEN,
            "segments": ace.SCALES,
            "concepts_of_an_interpretation": ace.N_CONCEPTS,
            "random_sets": ace.N_RANDOM,
        },
        "versions": versions(),
        "machine": machine(),
    }
    options.out.write_text(json.dumps({"settings": settings, "tasks": tasks}, indent=1))


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--report", action="store_true", help="only the report")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.words = " ".join(sys.argv[1:]).replace(str(options.cache), "DIR")
    options.words = options.words.removesuffix(" --report")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*own boundary.*")
    if not options.report:
        run(options)
    report(options)


if __name__ == "__main__":
    main()
