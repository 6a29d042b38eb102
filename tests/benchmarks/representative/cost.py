"""What representative interpretations cost beside Grad-CAM and bare forward passes.

Everything is a ratio of CPU times (of this process, one thread) that were measured
alternately in one run, medians of the repetitions; memory is the peak of a process of
its own beyond the warmed-up model.

    export CAPTUM_MARGIN_DATA=...
    python -m tests.benchmarks.representative.cost --cache DIR
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_margin.attr import RepresentativeInterpretation
from tests.benchmarks.machine import machine, quick_dtype, versions
from tests.benchmarks.records import RESULTS
from tests.benchmarks.representative.models import Task, load_task, mnist_net

SEED = 0


def alternately(runs: dict[str, Callable[[], object]], n: int) -> dict[str, float]:
    """Median CPU seconds of each, run in turn ``n`` times after once for warmth."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(n + 1):
        for name, call in runs.items():
            start = time.process_time()
            call()
            if i > 0:
                seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def pick(task: Task, n: int, unseen: bool = False) -> Tensor:
    """Some images as the model takes them."""
    images = task.test_images if unseen else task.train_images
    order = np.random.default_rng(SEED).permutation(len(images))[:n]
    return task.normalize(images[torch.from_numpy(order)])


# --- Heat maps ------------------------------------------------------------------------


def heat_maps(
    model: nn.Module, layer: nn.Module, references: Tensor, images: Tensor, n: int
) -> dict[str, Any]:
    """A fitted interpretation's maps, LayerGradCam's, and the pass to the layer."""
    explainer = RepresentativeInterpretation(model, layer)
    explainer.fit(references, n_boundaries=50, seed=SEED, batch_size=8)
    one = explainer.interpret(images[:1])
    grad_cam = LayerGradCam(model, layer)
    with torch.no_grad():
        target = model(images).argmax(dim=1)

    class Reached(Exception):
        """Ends the forward pass at the layer."""

    def stop(*_: object) -> None:
        raise Reached

    def to_layer(x: Tensor) -> None:
        hook = layer.register_forward_hook(stop)
        try:
            with torch.no_grad():
                model(x)
        except Reached:
            pass
        finally:
            hook.remove()

    rows: dict[str, Any] = {"boundaries": len(one.boundaries.bias)}
    for size in (1, 8):
        x, t = images[:size], target[:size]
        seconds = alternately(
            {
                "interpretation": lambda x=x: one.attribute(x),
                "layer_grad_cam": lambda x=x, t=t: grad_cam.attribute(x, t),
                "pass_to_layer": lambda x=x: to_layer(x),
                "explainer_attribute": lambda x=x, t=t: explainer.attribute(x, t),
            },
            n,
        )
        rows[f"batch_{size}"] = {
            "cpu_seconds": seconds,
            "times_faster_than_layer_grad_cam": seconds["layer_grad_cam"]
            / seconds["interpretation"],
            "times_the_pass_to_the_layer": seconds["interpretation"]
            / seconds["pass_to_layer"],
            "most_that_can_be_had": seconds["layer_grad_cam"]
            / seconds["pass_to_layer"],
        }
    return rows


def untrained(name: str, layer: int, n: int) -> dict[str, Any]:
    """Random weights and images: the time does not depend on them."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = torchvision.models.get_model(name, weights=None).eval()
        images = torch.randn(16, 3, 224, 224)
        # Untrained, it predicts one class: move the scores apart.
        with torch.no_grad():
            mean = model(images).mean(dim=0)
    return heat_maps(
        _Centred(model, mean), model.features[layer], images, images[:8], n
    )


class _Centred(nn.Module):
    """A model whose scores have a mean of zero, so that it predicts many classes."""

    def __init__(self, model: nn.Module, mean: Tensor) -> None:
        super().__init__()
        self.model, self.mean = model, mean

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) - self.mean  # type: ignore[no-any-return]


# --- Fit and search -------------------------------------------------------------------


def fit(task: Task, n_references: int, n_boundaries: int, n: int) -> dict[str, Any]:
    """The fit against the passes that cannot be done without, in the same batches."""
    references = pick(task, n_references)
    explainer = RepresentativeInterpretation(task.model, task.model.feature_map)
    batch = 32

    def fitted() -> None:
        explainer.fit(
            references, n_boundaries=n_boundaries, batch_size=batch, seed=SEED
        )

    def bare() -> None:
        with torch.no_grad():
            for x in references.split(batch):
                task.model(x)
        for x in references[:n_boundaries].split(batch):
            maps = task.model.maps(x).requires_grad_()
            top = task.model.head(maps).topk(2, dim=1).values
            torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), maps)

    seconds = alternately({"fit": fitted, "bare": bare}, n)
    return {
        "references": n_references,
        "boundaries": n_boundaries,
        "batch_size": batch,
        "bare": "forward passes of all references under no_grad, and a forward and "
        "backward pass for each boundary",
        "cpu_seconds": seconds,
        "ratio": seconds["fit"] / seconds["bare"],
    }


def search(task: Task, n_references: int, n_boundaries: int) -> dict[str, Any]:
    """Greedy search alone, for each of 200 unseen images."""
    explainer = RepresentativeInterpretation(task.model, task.model.feature_map)
    explainer.fit(pick(task, n_references), n_boundaries=n_boundaries, seed=SEED)
    table = explainer._tables[-1][-1]  # the search has no public door of its own
    images = pick(task, 200, unseen=True)
    with torch.no_grad():
        maps = task.model.maps(images)
        predicted = task.model.head(maps).argmax(dim=1).tolist()
    sides = (table.project(maps) >= 0).numpy()
    signs, seconds = table.signs, []
    for side, of_class in zip(sides, predicted, strict=True):
        start = time.process_time()
        signs.polytope(side, of_class)
        seconds.append(time.process_time() - start)
    return {
        "references": n_references,
        "boundaries": n_boundaries,
        "images": len(images),
        "milliseconds_median": 1e3 * float(np.median(seconds)),
        "milliseconds_mean": 1e3 * float(np.mean(seconds)),
        "milliseconds_worst": 1e3 * float(np.max(seconds)),
    }


# --- Memory ---------------------------------------------------------------------------


class Noise(Dataset[Tensor]):
    """Images made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.rand(1, 28, 28, generator=generator)


def memory(cache: Path, n_references: int, n_boundaries: int) -> dict[str, Any]:
    """Peak of fit and one search; to be run in a process of its own."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*own boundary.*")
    # No data set is loaded here: a peak of memory is that of the whole process.
    model = mnist_net().eval()
    saved = torch.load(cache / "mnist.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    explainer = RepresentativeInterpretation(model, model.feature_map)
    explainer.fit(Noise(200), n_boundaries=n_boundaries, seed=SEED)
    explainer.interpret(Noise(1)[0][None])
    before = _peak_megabytes()
    start = time.process_time()
    explainer.fit(Noise(n_references), n_boundaries=n_boundaries, seed=SEED)
    seconds = time.process_time() - start
    fitted = _peak_megabytes()
    explainer.interpret(Noise(1)[0][None])
    with torch.no_grad():
        maps = model.maps(Noise(1)[0][None])
    return {
        "references": n_references,
        "boundaries": n_boundaries,
        "peak_megabytes_of_fit": fitted - before,
        "peak_megabytes_of_fit_and_search": _peak_megabytes() - before,
        "megabytes_of_all_feature_maps": maps.numel() * 4 * n_references / 2**20,
        "cpu_seconds_of_fit": seconds,
    }


def _peak_megabytes() -> float:
    # Linux only. getrusage would hand on the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024


# --- All ------------------------------------------------------------------------------


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15, help="of each heat map")
    parser.add_argument("--again", action="store_true", help="measure every row anew")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "representative_cost.json"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*own boundary.*")
    data = Path(os.environ["CAPTUM_MARGIN_DATA"])
    words = " ".join(sys.argv[1:]).replace(str(options.cache), "DIR")
    settings = {
        "command": f"python -m tests.benchmarks.representative.cost {words}",
        "seed": SEED,
        "seconds": "CPU time of the process, median of alternating runs",
        "repeats": options.repeats,
        "trunks": f"cats_dogs: SqueezeNet, {quick_dtype()}; the others float32",
        "versions": versions(),
    }
    options.out.parent.mkdir(exist_ok=True)
    rows: dict[str, Any] = {}
    if options.out.exists() and not options.again:
        rows = json.loads(options.out.read_text())["rows"]

    def keep(name: str, make: Callable[[], dict[str, Any]]) -> None:
        if name not in rows:
            rows[name] = {**make(), "machine": machine()}  # rows may be of several
            contents = {"settings": settings, "rows": rows}
            options.out.write_text(json.dumps(contents, indent=1))
        print(f"{name}: {json.dumps(rows[name])}", flush=True)

    mnist = load_task("mnist", data, options.cache)
    spawn = multiprocessing.get_context("spawn")
    for n_references in (10_000, 100_000):
        job = (options.cache, n_references, 50)

        def apart(job: tuple[Path, int, int] = job) -> dict[str, Any]:
            with spawn.Pool(1) as pool:
                return pool.apply(memory, job)

        keep(f"memory, {n_references} references", apart)
    keep("fit, mnist", lambda: fit(mnist, 5000, 50, n=3))
    keep("search, Q = 50", lambda: search(mnist, 5000, 50))
    keep("search, Q = 200", lambda: search(mnist, 5000, 200))
    for name in ("cats_dogs_conv", "cats_dogs_deep"):
        task = load_task(name, data, options.cache)
        # As nets come: parameters that ask for gradients, for all methods alike.
        task.model.requires_grad_(True)

        def maps(task: Task = task) -> dict[str, Any]:
            images = pick(task, 8, unseen=True)
            layer = task.model.feature_map
            references = pick(task, 100)
            return heat_maps(task.model, layer, references, images, options.repeats)

        keep(f"heat map, {name}", maps)
        if name == "cats_dogs_conv":
            keep(f"fit, {name}", lambda task=task: fit(task, 320, 50, n=3))
    for name, layer in (("squeezenet1_0", 5), ("vgg16", 28)):
        n = max(3, options.repeats // 3)
        keep(
            f"heat map, {name} features[{layer}]",
            lambda name=name, layer=layer, n=n: untrained(name, layer, n),
        )


if __name__ == "__main__":
    main()
