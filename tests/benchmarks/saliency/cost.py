"""What saliency costs beside the model: time outside its forward passes, and memory.

Every method runs in a process of its own on one photograph (SLIC included where it is
used), after a warm-up of the model, and only shares are meant to be compared. Its peak
of memory on a CPU is measured in a second process, whose larger blocks are all mapped:
else it is as much as the allocator happens to keep, several times more or less. The
photograph is scikit-image's cat, the network an untrained SqueezeNet 1.0 in float32,
so nothing need be downloaded.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.saliency.cost
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.machine import machine, versions
from tests.benchmarks.records import RESULTS
from tests.benchmarks.saliency.methods import CHUNK, Photograph, superpixels
from tests.benchmarks.saliency.rows import ROWS

OURS = ("MarginSaliency", "MarginSaliency-200", "MarginSaliency-paper")
BLACK_BOXES = ("RISE-800", "Occlusion-400", "FeatureAblation", "Lime-400")
BLACK_BOXES += ("KernelShap-400",)


class TimedSqueezeNet(nn.Module):
    """A network that counts its images and the seconds it is at work."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = torchvision.models.squeezenet1_0(weights=None).eval()
        self.n_forward = 0
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        _synchronize(x)
        start = time.perf_counter()
        output: Tensor = self.net(x)
        _synchronize(x)
        self.seconds += time.perf_counter() - start
        self.n_forward += x.shape[0]
        return output


def _synchronize(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def measure(name: str, device: str) -> dict[str, float]:
    """Runs one method once; megabytes are those beyond the warmed-up model."""
    from skimage.data import chelsea
    from skimage.transform import resize

    model = TimedSqueezeNet().to(device)
    pixels = resize(chelsea()[:, 75:375], (224, 224))  # in [0, 1]
    image = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    image = ((image - 0.45) / 0.225).to(device)
    segments = superpixels(image)
    photo = Photograph(model, image, target=0, segments=segments, seed=0)  # type: ignore[arg-type]
    with torch.no_grad():
        for _ in range(3):
            model(image.expand(CHUNK, -1, -1, -1).contiguous())
    model.n_forward, model.seconds = 0, 0.0
    before = _peak_megabytes(device)
    start = time.perf_counter()
    ROWS[name].make(photo)
    seconds = time.perf_counter() - start
    return {
        "n_forward": model.n_forward,
        "seconds": seconds,
        "seconds_in_model": model.seconds,
        "share_outside_model": 1 - model.seconds / seconds,
        "milliseconds_outside_per_pass": 1e3
        * (seconds - model.seconds)
        / model.n_forward,
        "peak_megabytes_beyond_model": _peak_megabytes(device) - before,
    }


def _peak_megabytes(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_new_process(name: str, device: str) -> dict[str, float]:
    """Of a method, whose peak of memory is then its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, device))


def megabytes(name: str) -> float:
    """The peak of memory on a CPU, in a process that gives back what it frees."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # read by glibc as a process starts
    try:
        return in_new_process(name, "cpu")["peak_megabytes_beyond_model"]
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="*", default=[*OURS, *BLACK_BOXES])
    parser.add_argument("--out", type=Path, default=RESULTS / "saliency_cost.json")
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.methods:
        row = rows[name] = in_new_process(name, arguments.device)
        if not arguments.device.startswith("cuda"):
            row["peak_megabytes_beyond_model"] = megabytes(name)
        print(
            f"{name:22s} {row['n_forward']:5.0f} passes  "
            f"{row['share_outside_model']:6.1%} of the time outside the model  "
            f"{row['milliseconds_outside_per_pass']:7.2f} ms a pass  "
            f"{row['peak_megabytes_beyond_model']:7.0f} MB",
            flush=True,
        )
    arguments.out.parent.mkdir(exist_ok=True)
    settings = {
        "command": "python -m tests.benchmarks.saliency.cost",
        "device": arguments.device,
        "images_a_forward_pass": CHUNK,
        "seed": 0,
        "versions": versions(),
        "machine": machine(arguments.device),
    }
    arguments.out.write_text(
        json.dumps({"settings": settings, "methods": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
