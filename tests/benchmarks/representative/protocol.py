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
from functools import cache
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
RUNS = 5
SCORE_CAM_RUNS = {"cats_dogs_deep": 3}  # 512 or 1,280 passes a centre
GROUPS = ("bank", "peers", "ace", "score_cam")
# ACE looks at some sixty segments an image: at those of fewer images.
ACE_REFERENCES, ACE_UNSEEN = 300, 200
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

    @cache  # noqa: B019
    def bank(self, seed: int) -> tuple[RepresentativeInterpretation, Any]:
        """The paper's bank of one run, with its number of boundaries."""
        explainer = self.explainer(seed, N_BOUNDARIES[0])
        return explainer, explainer.bank(10, seed=seed, paper=True)

    def explainer(self, seed: int, n_boundaries: int) -> RepresentativeInterpretation:
        explainer = RepresentativeInterpretation(self.upper, self.upper.feature_map)
        return explainer.fit(self.references, n_boundaries=n_boundaries, seed=seed)

    def score(self, method: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Drop and increase of every unseen image."""
        drops, increases, _ = drops_of(
            self.task, self.unseen, self.maps, self.output, method
        )
        return {"drop": drops, "increase": increases}


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
    alike = classes[which] == data.output.argmax(dim=1)
    return {
        "interpretations": len(interpretations),
        "interpretations_used": len(which.unique()),
        "unseen_covered": covered.double().mean().item(),
        "unseen_explained_as_predicted": alike.double().mean().item(),
        "boundaries": float(np.mean(n_boundaries)),
        "references_covered": float(np.mean(n_covered)),
        "purity": float(np.mean([one.purity for one in interpretations])),
    }


def banks(data: Data, seed: int) -> dict[str, Any]:
    """Ours: by the paper with each |Q|, by nearest centres alone, and the default."""
    explainer, bank = data.bank(seed)
    means = bank.means
    assert isinstance(bank, InterpretationBank)
    which, covered = bank.assign(data.maps)
    found: dict[str, Any] = {
        OURS: data.score(lambda maps, classes: bank.attribute(maps, **PAPER))
        | describe(data, list(bank), which, covered)
        | {"distinct_centres": len(bank.centers.unique())},
        "RI, nearest centre alone": data.score(
            lambda maps, classes: under(list(bank), maps, nearest(maps, means))
        )
        | describe(data, list(bank), nearest(data.maps, means), covered),
    }
    again, inside = covering(list(bank), means, data.maps)
    assert torch.equal(again, which) and torch.equal(inside, covered)
    for n_boundaries in N_BOUNDARIES[1:]:
        other = data.explainer(seed, n_boundaries)
        centres = data.references[bank.centers]
        singles = [other.interpret(centre[None]) for centre in centres]
        found[f"RI, |Q| = {n_boundaries}"] = data.score(
            lambda maps, classes, singles=singles: under(  # type: ignore[misc]
                singles, maps, covering(singles, means, maps)[0]
            )
        ) | describe(data, singles, *covering(singles, means, data.maps))
    default = explainer.bank(10, seed=seed)
    for form, options in {
        "default bank, signed": {},
        "default bank, evidence for": {"relu_attributions": True},
    }.items():
        found[form] = data.score(
            lambda maps, classes, options=options: default.attribute(  # type: ignore[misc]
                maps, classes, **options
            )
        )
    return found


def peers(data: Data, seed: int) -> dict[str, Any]:
    """CAMs with the channel weights of the nearest centre's reference."""
    _, bank = data.bank(seed)
    head = data.task.model.head
    maps, classes = data.references[bank.centers], data.predicted[bank.centers]
    weights = {
        PEER: grad_cam_weights(head, maps, classes),
        "Grad-CAM++": grad_cam_pp_weights(head, maps, classes),
    }
    return {name: reused(data, bank, w) for name, w in weights.items()}


def score_cam(data: Data, seed: int) -> dict[str, Any]:
    """Score-CAM likewise; the weights of a reference are kept for other runs."""
    _, bank = data.bank(seed)
    weights = []
    for center in bank.centers.tolist():
        path = data.folder / f"{data.task.name}_score_cam_{center}.pt"
        if not path.exists():
            image = data.task.normalize(data.task.train_images[center, None])
            classes = data.predicted[center, None]
            torch.save(score_cam_weights(data.task.model, image, classes), path)
        weights.append(torch.load(path, weights_only=True))
    return {"Score-CAM": reused(data, bank, torch.cat(weights))}


def reused(data: Data, bank: InterpretationBank, weights: Tensor) -> dict[str, Any]:
    means = bank.means
    assert means is not None
    return data.score(lambda maps, _: cam(maps, weights[nearest(maps, means)]))


def concepts(data: Data, seed: int) -> dict[str, Any]:
    """ACE: concepts of each cluster's images, for the unseen images nearest to it."""
    _, bank = data.bank(seed)
    task, head = data.task, data.task.model.head
    ours = ace.segments(task, "train", data.pool, data.folder)
    theirs = ace.segments(task, "test", data.chosen[:ACE_UNSEEN], data.folder)
    pool = data.references[data.pool]
    distances = torch.cdist(pool.flatten(1), bank.means.flatten(1))
    cluster = distances.argmin(dim=1)
    which = nearest(data.maps[:ACE_UNSEEN], bank.means)
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


MAKERS = {"bank": banks, "peers": peers, "ace": concepts, "score_cam": score_cam}


def record_path(folder: Path, name: str, seed: int) -> Path:
    return folder / f"protocol.{name}.{seed}.json"


def run(options: argparse.Namespace) -> None:
    """Every group of every run that the cache has not."""
    for name in options.tasks:
        task = load_task(name, Path(os.environ["CAPTUM_MARGIN_DATA"]), options.cache)
        data = Data(task, options.cache)
        for seed in range(options.runs):
            path = record_path(options.cache, name, seed)
            record = json.loads(path.read_text()) if path.exists() else {}
            for group in options.groups:
                if group == "score_cam" and seed >= SCORE_CAM_RUNS.get(name, 0):
                    continue
                if group not in record:
                    record[group] = MAKERS[group](data, seed)
                    path.write_text(json.dumps(record))
                    print(f"{name}, run {seed}: {group}", flush=True)
            data.bank.cache_clear()


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A method's drop and increase in percent, over the images and over the runs."""
    found: dict[str, Any] = {"runs": len(rows), "images": len(rows[0]["drop"])}
    for key, name in {"drop": "average_drop", "increase": "average_increase"}.items():
        values = 100 * np.array([row[key] for row in rows], dtype=float)
        found[name] = mean_and_error(values.mean(axis=0)) | {
            "standard_deviation_of_runs": float(values.mean(axis=1).std(ddof=1))
        }
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
        paths = [record_path(options.cache, name, seed) for seed in range(options.runs)]
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
        "seeds": [*range(options.runs)],
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
    parser.add_argument("--runs", type=int, default=RUNS)
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
