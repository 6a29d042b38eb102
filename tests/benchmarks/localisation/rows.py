"""What both localisation benchmarks share: rows, kept maps, and means over pictures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.networks.trained import NetworkName
from tests.benchmarks.saliency.bench import difference_of_means, mean_and_error
from tests.benchmarks.saliency.methods import Photograph
from tests.benchmarks.saliency.rows import ROWS

CONTROLS = ("random", "edges", "centre")
OURS = "MarginSaliency"
SHOWN = (
    OURS,
    "MarginSaliency-200",
    "keeping-800",
    "CoalitionPerturbation",
    "LayerGradCam",
    "LeGrad",
    "AttnLRP",
    "RISE-800",
    "HSIC-500",
    "Sobol-2112",
    "SHAP-500",
    "Occlusion-400",
    *CONTROLS,
)
# A row is no better than a control where the mean of the differences, picture by
# picture, is not above as many of its standard errors.
ERRORS = 2.0


def rows_for(network: NetworkName | None, names: Sequence[str]) -> list[str]:
    """Those of the rows that explain a network; None is any with a last feature map."""
    anything: NetworkName = "squeezenet"
    return [name for name in names if (network or anything) in ROWS[name].networks]


def digest(image: Tensor) -> str:
    """What tells an image from others."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:16]


def kept_map(photo: Photograph, name: str, cache: Path, begin: str) -> dict[str, Any]:
    """A method's map of an image and its passes, made where the cache lacks it.

    The file's name has a digest of the image: another image is another file.
    """
    path = cache / f"{begin}.{digest(photo.image)}.{photo.target}.{name}.npz"
    if not path.exists():
        photo.model.n_forward = 0
        start = time.perf_counter()
        attribution = ROWS[name].make(photo)
        seconds = time.perf_counter() - start
        values = attribution.detach().numpy()
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez_compressed(
                file, map=values, seconds=seconds, n_forward=photo.model.n_forward
            )
        part.replace(path)
    saved = np.load(path)
    return {
        "map": torch.from_numpy(saved["map"]),
        "seconds": float(saved["seconds"]),
        "n_forward": int(saved["n_forward"]),
    }


def summarised(of: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """Means of each row's measures, its differences to ours and to the best control.

    Args:
        of: By row and measure, one number a picture, (P,); the same pictures each.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, measures in of.items():
        rows[name] = {"metrics": {}, "ours_minus_it": {}, "it_minus_control": {}}
        for key, values in measures.items():
            rows[name]["metrics"][key] = mean_and_error(values.tolist())
            if OURS in of and name != OURS:
                difference = of[OURS][key] - values
                rows[name]["ours_minus_it"][key] = mean_and_error(difference.tolist())
            controls = [c for c in CONTROLS if c in of]
            if name in CONTROLS or not controls:
                continue
            best = max(controls, key=lambda c: float(of[c][key].mean()))
            difference = mean_and_error((values - of[best][key]).tolist())
            rows[name]["it_minus_control"][key] = {"control": best, **difference}
    return rows


def updated(
    rows: Mapping[str, dict[str, Any]], later: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The rows of a record with those of a later run on the same pictures.

    Scores of each picture are not in a record, so that differences to a row of the
    other run have the error of two independent means.
    """
    merged = {**rows, **later}
    ours = merged[OURS]["metrics"]
    controls = [name for name in CONTROLS if name in merged]
    for name, row in merged.items():
        if name != OURS and (name in later) != (OURS in later):
            row["ours_minus_it"] = {
                key: difference_of_means(ours[key], mean)
                for key, mean in row["metrics"].items()
            }
        if name in CONTROLS or name not in later or set(controls) & set(later):
            continue
        for key, mean in row["metrics"].items():
            best = max(controls, key=lambda c: merged[c]["metrics"][key]["mean"])
            difference = difference_of_means(mean, merged[best]["metrics"][key])
            row["it_minus_control"][key] = {"control": best, **difference}
    return merged


def beats_controls(row: Mapping[str, Any], key: str) -> bool:
    """Whether a row is clearly better than the best of the controls."""
    found = row["it_minus_control"].get(key)
    return found is not None and found["mean"] > ERRORS * found["standard_error"]
