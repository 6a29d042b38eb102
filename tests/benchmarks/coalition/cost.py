"""What coalitions and the search for a perturbation cost: time and memory.

Every line runs in a process of its own on scikit-image's cat at 224 x 224, with
untrained networks, after one forward and backward pass. Times are CPU seconds on one
thread (on a GPU seconds on the clock), also in units of one forward and backward pass
of the same network; memory is the growth of the peak beyond that of this warm-up.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.coalition.cost [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.machine import machine, versions
from tests.benchmarks.records import RESULTS

STEPS = 5


def network(name: str, device: str) -> nn.Module:
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None)
    return model.eval().requires_grad_(False).to(device)


def photograph(device: str, count: int) -> Tensor:
    from skimage.data import chelsea

    image = torch.tensor(chelsea()[:224, 120:344] / 255.0).float().permute(2, 0, 1)
    return ((image - 0.45) / 0.225).expand(count, 3, 224, 224).clone().to(device)


def coalitions(resolution: str) -> Callable[[nn.Module, Tensor], None]:
    from captum_margin.attr import feature_coalitions

    return lambda model, x: feature_coalitions(model, x, resolution=resolution)


def perturbation(**options: object) -> Callable[[nn.Module, Tensor], None]:
    """The search alone: early stopping cannot end it before its steps are done."""
    from captum_margin.attr import CoalitionPerturbation

    def run(model: nn.Module, x: Tensor) -> None:
        mask = torch.arange(224, device=x.device) // 56
        mask = (4 * mask[:, None] + mask)[None, None]
        CoalitionPerturbation(model).attribute(
            x, target=sought(model, x), feature_mask=mask, **options
        )

    return run


def lines(model: str) -> dict[str, tuple[int, Callable[[nn.Module, Tensor], None]]]:
    """What is measured of a network: images and function, by name."""
    steps = {"n_steps": STEPS, "internal_batch_size": 16}
    return {
        "coalitions, pyramid": (1, coalitions("pyramid")),
        "coalitions, full": (1, coalitions("full")),
        f"{STEPS} steps": (1, perturbation(**steps)),
        f"{STEPS} steps, batch of 8": (8, perturbation(**steps)),
        "whole, batch of 1": (1, whole()),
    }


def whole() -> Callable[[nn.Module, Tensor], None]:
    """Coalitions and search, as a user calls it."""
    from captum_margin.attr import CoalitionPerturbation

    return lambda model, x: CoalitionPerturbation(model).attribute(
        x, target=sought(model, x)
    )


@torch.no_grad()
def sought(model: nn.Module, x: Tensor) -> int:
    """The class that loses most without the image: of others nothing is to be kept."""
    faded = x[:1].mean(dim=(2, 3), keepdim=True).expand_as(x[:1])
    lost = model(x[:1]).log_softmax(dim=1) - model(faded).log_softmax(dim=1)
    return int(lost.argmax())


def measure(name: str, line: str, device: str, queue: multiprocessing.Queue) -> None:
    """One line, in a process of its own."""
    torch.set_num_threads(1)
    model = network(name, device)
    count, function = lines(name)[line]
    x = photograph(device, count)
    passes = []
    for _ in range(3):
        start = now(device)
        leaf = x[:1].clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
        passes.append(now(device) - start)
    before = peak(device)
    start = now(device)
    function(model, x)
    seconds = now(device) - start
    queue.put(
        {
            "seconds": round(seconds, 3),
            "forward_backward_passes": round(seconds / min(passes), 1),
            "images": count,
            "peak_mb": round((peak(device) - before) / 2**20),
        }
    )


def now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak(device: str) -> float:
    """Peak memory so far in bytes."""
    if device == "cpu":
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(torch.cuda.max_memory_allocated())


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="*", default=["squeezenet1_0", "vgg16"])
    parser.add_argument("--out", type=Path, default=RESULTS / "coalition_cost.json")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)  # as in the processes that measure
    context = multiprocessing.get_context("spawn")
    rows = {}
    for name in arguments.models:
        for line in lines(name):
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, line, device, queue))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"{name}: {line} ended with {process.exitcode}")
            rows[f"{name}: {line}"] = queue.get()
            print(f"{name}: {line:28}", rows[f"{name}: {line}"], flush=True)
    settings = {
        "command": "OMP_NUM_THREADS=1 python -m tests.benchmarks.coalition.cost"
        + ("" if device == "cpu" else f" --device {device}"),
        "device": device,
        "seed": 0,
        "versions": versions(),
        "machine": machine(device),
    }
    arguments.out.write_text(
        json.dumps({"settings": settings, "lines": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
