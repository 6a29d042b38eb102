"""Draws the README's picture of a representative interpretation: a cat and its like.

SqueezeNet with a head for cats and dogs, as in ``bench_representative``.

CAPTUM_MARGIN_DATA=... python -m tests.benchmarks.representative.picture --cache DIR
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from captum_margin.attr import RepresentativeInterpretation
from tests.benchmarks.representative.models import load_task

PICTURE = Path(__file__).parents[3] / "tutorials/pictures/representative_cats.png"
N_REFERENCES = 400


def main() -> None:
    """Fits, explains and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--unseen", type=int, default=3, help="which test photograph")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()

    torch.set_num_threads(1)
    data = Path(os.environ["CAPTUM_MARGIN_DATA"])
    task = load_task("cats_dogs_deep", data, options.cache)
    model = task.model
    order = torch.randperm(
        len(task.train_images), generator=torch.Generator().manual_seed(0)
    )
    references = task.normalize(task.train_images[order[:N_REFERENCES]])
    image = task.normalize(task.test_images[options.unseen, None])
    explainer = RepresentativeInterpretation(model, model.feature_map)
    explainer.fit(references, seed=0, batch_size=16)
    one = explainer.interpret(image)
    print(one)
    figure = one.plot(k=4, mean=list(task.mean), std=list(task.std))
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
