"""How well attacked images are told from clean and from merely odd ones.

    CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.adversarial.detection --cache DIR

Two networks, six attacks, and two more that know what is watched (``attacks.py``). All
detectors have the same references: those that the network classifies rightly, of
images it was not trained on; who they are is said in ``peers.py``. Of attacked images
only those count that the network now gets wrong.

AUROC: attacked against the same images before the attack. False alarms: the share of
these above the score that 95% of the attacked reach. Odd images: AUROC against clean
ones (0.5: they are not called suspicious), and, as the mean over the six attacks, of
attacked ones against them. Standard errors are those of 200 bootstraps over images.

k, the whitening and the three parts of our score and their weights were chosen by the
mean AUROC of 300 other images of either network ("tuning"). "Attack on AttackDetector"
differentiates through its score: 80 steps of PGD within the size of the large FGSM,
towards a wrong decision while there is none, then towards a lower score; of the images
on the way the least suspicious wrong one is kept.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import captum_margin
from captum_margin.influence import AdversarialStatistics, AttackDetector
from captum_margin.influence._layer_statistics import Usual, log_gap
from captum_margin.signal import kernel_density
from tests.benchmarks.adversarial import attacks as images
from tests.benchmarks.adversarial.peers import Latents, Scorer, learnt, peers
from tests.benchmarks.machine import machine
from tests.benchmarks.records import RESULTS

RESULT = RESULTS / "attack_detection.json"
ATTACKS = images.ATTACKS
KNOWING = ("latents of another class", "attack on AttackDetector")
MAPS = {"MNIST": "maps", "CIFAR-10": "blocks.2"}
RESAMPLES = 200


def auroc(clean: np.ndarray, attacked: np.ndarray) -> float:
    """The chance that an attacked sample has the larger score; ties count half."""
    ordered = np.sort(clean)
    sides = [np.searchsorted(ordered, attacked, s).mean() for s in ("left", "right")]
    return float(np.mean(sides) / len(clean))


def false_alarms(clean: np.ndarray, attacked: np.ndarray) -> float:
    """Share of clean samples at or above what 95% of the attacked reach."""
    reached = np.sort(attacked)[int(np.floor(0.05 * len(attacked)))]
    return float((clean >= reached).mean())


class Named(AttackDetector):
    """A detector that is fitted on latents that are there already."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__(model, list(names))
        self.names = names
        self.reference_latents: Latents = {}

    def _run(self, data: Any, labels: Any) -> tuple[list[Tensor], Tensor, Any]:
        return [data[name] for name in self.names], data["scores"], labels


def unfiltered(detector: Named) -> Scorer:
    """The same without what the references' neighbourhood takes off."""

    def functions(values: Tensor) -> Tensor:
        return torch.cat([values, values[:, :1] - values[:, 1:]], dim=1)

    def score(x: Latents) -> Tensor:
        pairs = zip(detector.names, detector._fitted, strict=True)
        found = [
            layer._functions((x[n] - layer.center) @ layer.whitening, x["class"])[0]
            for n, layer in pairs
        ]
        layers = torch.stack([functions(values) for values in found], dim=1)
        return usual.score(layers, log_gap(x["scores"]))

    own = [functions(layer.values) for layer in detector._fitted]
    gap = log_gap(detector.reference_latents["scores"])
    usual = Usual.of(torch.stack(own, dim=1), gap)
    return score


def ours(
    name: images.Name,
    data: images.Data,
    known: Latents,
    clean: Latents,
    attacked: Latents,
) -> tuple[Named, dict[str, Scorer]]:
    """The fitted detector, and by name what gives samples a score."""
    names = images.LAYERS[name]
    detector = Named(data.model, names).fit(known, known["class"])
    detector.reference_latents = known
    one = Named(data.model, names[-1:]).fit(known, known["class"])
    density = {
        "references": known[names[-1]],
        "reference_classes": known["class"],
    }
    near = {"graph_references": known[MAPS[name]]}

    def statistics(**by: Any) -> Callable[[Latents], Any]:
        def result(x: Latents) -> Any:
            more = {"graph_features": x[MAPS[name]]} if by else {}
            return AdversarialStatistics.from_features(
                x[names[-1]], predicted=x["class"], **density, **by, **more
            ).result()

        return result

    plain, by_maps = statistics(), statistics(**near)
    return detector, {
        "kde": lambda x: plain(x).function,
        "mmd, low": lambda x: kernel_density(x[names[-1]], known[names[-1]]),
        "AdversarialStatistics": lambda x: plain(x).filtered,
        "AdversarialStatistics, graph_features": lambda x: by_maps(x).filtered,
        "AttackDetector, one layer": one.score,
        "AttackDetector": detector.score,
        "AttackDetector, no filter": unfiltered(detector),
        "AttackDetector, learnt": learnt(
            "regression", detector.statistics, clean, attacked
        ),
    }


def attack_on(
    name: images.Name, data: images.Data, detector: Named, steps: int = 80
) -> Tensor:
    """Images changed by who knows the detector and its references."""
    size = max(images.FGSM[name])
    done = []
    chunks = data.images.split(images.CHUNK), data.labels.split(images.CHUNK)
    for x, y in zip(*chunks, strict=True):
        changed, best = x.clone(), x.clone()
        lowest = torch.full((len(x),), torch.inf)
        for _ in range(steps + 1):
            changed.requires_grad_(True)
            found = images.latents(data.model, detector.names, changed)
            found["class"] = found["scores"].argmax(1)
            score = detector.score(found)
            right = found["class"] == y
            logits = found["scores"]
            own = logits.gather(1, y[:, None]).squeeze(1)
            rest = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            better = ~right & (score.detach() < lowest)
            lowest = score.detach().where(better, lowest)
            best[better] = changed.detach()[better]
            loss = (own - rest).where(right, score).sum()
            (gradient,) = torch.autograd.grad(loss, changed)
            moved = changed.detach() - size / 15 * gradient.sign()
            changed = (x + (moved - x).clamp(-size, size)).clamp(0, 1)
        done.append(best)
    return torch.cat(done)


def measure(name: images.Name, root: Path, cache: Path) -> dict[str, Any]:
    """All rows of a network."""
    layers = images.LAYERS[name]
    tuning = images.prepare(name, "tuning", root, cache)
    data = images.prepare(name, "report", root, cache)

    def latents(x: Tensor) -> Latents:
        return images.collect(data.model, layers, x)

    known = latents(data.references[0])
    right = known["class"] == data.references[1]
    known = {key: value[right] for key, value in known.items()}
    before, after = latents(tuning.images), latents(tuning.changed["FGSM middle"])
    detector, scorers = ours(name, data, known, before, after)
    head = data.model.logits.weight, data.model.logits.bias
    scorers = {
        **peers(known, known["class"], layers, head, before, after),
        **scorers,
    }
    file = cache / f"{name}_report_on_detector.pt"
    if not file.exists():
        torch.save(attack_on(name, data, detector), file)
    data.changed[KNOWING[1]] = torch.load(file, weights_only=True)
    clean = latents(data.images)
    attacked = {key: latents(x) for key, x in data.changed.items()}
    fooled = {key: (x["class"] != data.labels).numpy() for key, x in attacked.items()}
    odd = {key: latents(x) for key, x in data.odd.items()}
    largest = clean["scores"].topk(2).values
    gap = largest[:, 0] - largest[:, 1]
    near = (gap <= gap.quantile(0.1)).numpy()
    rows = {}
    for key, scorer in scorers.items():
        rows[key] = row(
            *(
                {n: scorer(x).double().numpy() for n, x in part.items()}
                for part in ({"clean": clean}, attacked, odd)
            ),
            fooled,
            near,
        )
        print(f"{name:9} {key:40} {rows[key]['mean']}", flush=True)
    return {
        "test_accuracy": round(data.accuracy, 4),
        "references": len(known["class"]),
        "images": len(data.images),
        "attacks": {
            key: {
                "fooled": round(float(mask.mean()), 4),
                "mean_l2": round(_far(data.changed[key], data.images), 3),
            }
            for key, mask in fooled.items()
        },
        "rows": rows,
        "threshold": alarms(name, data, fooled),
    }


def _far(x: Tensor, y: Tensor) -> float:
    return float((x - y).flatten(1).norm(dim=1).mean())


def alarms(
    name: images.Name, data: images.Data, fooled: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What ``threshold(at_false_alarms=.05)`` comes to, as users call the class."""
    detector = AttackDetector(data.model, images.LAYERS[name], batch_size=250)
    detector.fit(*data.references)
    limit = detector.threshold(at_false_alarms=0.05)
    others, right = (
        float((detector.score(x) > limit).double().mean())
        for x in (data.others[0], data.images)
    )
    found = {
        key: float((detector.score(data.changed[key]) > limit).numpy()[mask].mean())
        for key, mask in fooled.items()
    }
    return {
        "asked": 0.05,
        "false_alarms": round(others, 4),
        "of": len(data.others[0]),
        "false_alarms_of_rightly_classified": round(right, 4),
        "found": {key: round(value, 4) for key, value in found.items()},
    }


def row(
    before: dict[str, np.ndarray],
    attacked: dict[str, np.ndarray],
    odd: dict[str, np.ndarray],
    fooled: dict[str, np.ndarray],
    near: np.ndarray,
) -> dict[str, Any]:
    """Everything that one detector's scores come to."""
    clean = before["clean"]

    def mean(at: np.ndarray) -> float:
        return float(
            np.mean([auroc(clean[at], attacked[a][at][fooled[a][at]]) for a in ATTACKS])
        )

    rng = np.random.default_rng(0)
    n = len(clean)
    drawn = [mean(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    strange = {**odd, "near the boundary": clean[near]}
    usual = {key: clean for key in odd} | {"near the boundary": clean[~near]}
    suspects = {a: attacked[a][mask] for a, mask in fooled.items()}
    entry = {
        "auroc": {a: auroc(clean, x) for a, x in suspects.items()},
        "false_alarms": {a: false_alarms(clean, x) for a, x in suspects.items()},
        "mean": mean(np.arange(n)),
        "standard_error": float(np.std(drawn)),
        "mean_false_alarms": float(
            np.mean([false_alarms(clean, suspects[a]) for a in ATTACKS])
        ),
        "odd": {key: auroc(usual[key], x) for key, x in strange.items()},
        "attacked_against_odd": {
            key: float(np.mean([auroc(x, suspects[a]) for a in ATTACKS]))
            for key, x in strange.items()
        },
    }
    return _rounded(entry)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4)


def main() -> None:
    """Runs the benchmark and writes its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    root = Path(os.environ["CAPTUM_MARGIN_DATA"])
    networks = {name: measure(name, root, args.cache) for name in images.NETWORKS}
    import foolbox
    import pytorch_ood

    words = [a for a in sys.argv[1:] if a != str(args.cache)]
    command = shlex.join(["python", "-m", "tests.benchmarks.adversarial.detection"])
    record = {
        "command": command
        + "".join(f" {a} DIR" if a == "--cache" else f" {a}" for a in words),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "foolbox": foolbox.__version__,
            "pytorch_ood": pytorch_ood.__version__,
            "captum_margin": captum_margin.__version__,
        },
        "machine": machine(),
        "settings": {
            "seeds": "networks, images, attacks, noise, bootstrap: 0",
            "resamples": RESAMPLES,
            "layers": images.LAYERS,
            "fgsm": images.FGSM,
            "pgd": images.PGD,
            "carlini_wagner": images.CW_OPTIONS,
            "carlini_wagner_step": images.CW_STEP,
            "deepfool": images.DEEPFOOL_OPTIONS,
            "rotation": images.ROTATION,
            "noise": images.NOISE,
        },
        "seconds": round(time.time() - start),
        "networks": networks,
    }
    args.out.write_text(dumps(record, indent=1) + "\n")
    print(f"written to {args.out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
