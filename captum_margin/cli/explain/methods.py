"""The attribution methods that ``--method`` can name."""

from __future__ import annotations

import argparse

from torch import Tensor

from captum_margin._explain import explain
from captum_margin.cli.classifier import Classifier
from captum_margin.cli.explain import coalition, representative
from captum_margin.cli.explain.explained import Explained, Explainer, Method
from captum_margin.cli.output import shows_progress

_DEFAULT_EVALUATIONS = 800


def _margin(args: argparse.Namespace, classifier: Classifier) -> Explainer:
    from captum_margin.attr import MarginSaliency

    saliency = MarginSaliency(classifier.model)

    def explain_one(image: Tensor, target: int) -> Explained:
        return Explained(
            explain(
                saliency,
                image,
                target,
                n_evaluations=args.n_evaluations or _DEFAULT_EVALUATIONS,
                prior=args.prior,
                seed=args.seed,
                show_progress=shows_progress(args),
            )
        )

    return explain_one


METHODS = {
    "coalition": Method(
        title="Feature coalitions",
        prepare=coalition.prepare,
        options=("--n-coalitions",),
        pictures=(coalition.COALITIONS,),
    ),
    "margin": Method(
        title="MARGIN saliency",
        prepare=_margin,
        options=("--n-evaluations", "--prior"),
    ),
    "representative": Method(
        title="Representative",
        prepare=representative.prepare,
        options=("--references", "--layer", "--n-boundaries"),
        required=("--references",),
        pictures=(representative.SIMILAR,),
    ),
}
"""By name. A new method is one more entry, and its own options in ``explain``."""


def wrong_options(args: argparse.Namespace) -> str | None:
    """Says which option does not go with the method, or is missing; None if none is.

    Args:
        args (Namespace): Parsed arguments; None in place of options not given.
    """

    def given(option: str) -> bool:
        return getattr(args, option.lstrip("-").replace("-", "_")) is not None

    method = METHODS[args.method]
    for name, other in METHODS.items():
        for option in other.options:
            if given(option) and option not in method.options:
                return f"{option} goes with --method {name} (got {args.method})"
    for option in method.required:
        if not given(option):
            return f"--method {args.method} needs {option}"
    return None
