"""The rows of the comparison: what each method is called, sees and may spend.

By their packages: Captum's, ScoreCAM (grad-cam), SHAP Partition (shap), permutation and
SVARM (shapiq). Written anew from their papers, since no package for PyTorch has them or
only one that needs many others: RISE, HSIC, Sobol, greedy region search, LeGrad and
AttnLRP; ``tests/attr/margin/test_saliency_peers.py`` holds them to closed forms. A
published budget is the default of a method's authors or of their package. RISE's own
(4,000 to 8,000 passes) is beyond what is compared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from tests.benchmarks.networks.trained import NETWORKS, NetworkName
from tests.benchmarks.saliency import methods
from tests.benchmarks.saliency.games import (
    permutation_shapley,
    shap_partition,
    svarm,
)
from tests.benchmarks.saliency.methods import Photograph, margin_saliency
from tests.benchmarks.saliency.region_search import region_search
from tests.benchmarks.saliency.sensitivity import hsic, sobol
from tests.benchmarks.saliency.transformer import attn_lrp, legrad


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes:
        name: What it is called in a table.
        make: From a photograph to its map (H, W).
        box: What it sees of the network: nothing but scores, its inside, or nothing.
        budget: Whose number of passes it is: its authors' (or their package's), or
            one near ours. Empty where there is nothing to choose.
        own: Whether it is ours.
        option: What it was asked for, as code, where its passes do not say it.
        networks: Those that it can explain.
    """

    name: str
    make: Callable[[Photograph], Tensor]
    box: Literal["black box", "white box", "no model"]
    budget: Literal["published budget", "our budget", ""] = ""
    own: bool = False
    option: str = ""
    networks: tuple[NetworkName, ...] = NETWORKS

    @property
    def title(self) -> str:
        """The name, and by what right it has its passes."""
        name = f"**{self.name}**" if self.own else self.name
        option = f"`{self.option}`" if self.option else ""
        parts = (name, option, self.box, self.budget)
        return ", ".join(part for part in parts if part)


def _ours(told: str = "", **options: object) -> Method:
    """MarginSaliency; passes are a column of their own, other options are told."""
    return Method(
        "MarginSaliency",
        partial(margin_saliency, **options),
        "white box" if "prior" in options else "black box",
        own=True,
        option=told,
    )


MAIN_ROW = "MarginSaliency"
OF_TRANSFORMERS: tuple[NetworkName, ...] = ("vit",)
ROWS: dict[str, Method] = {
    MAIN_ROW: _ours(),
    "MarginSaliency-200": _ours(n_evaluations=200),
    "MarginSaliency-100": _ours(n_evaluations=100),
    "MarginSaliency-100-gradcam": _ours(
        'prior="gradcam"', n_evaluations=100, prior="gradcam"
    ),
    "MarginSaliency-paper": _ours("paper=True", paper=True),
    "keeping-800": _ours("deletion=False", deletion=False),
    "keeping-200": _ours("deletion=False", n_evaluations=200, deletion=False),
    "CoalitionPerturbation": Method(
        "CoalitionPerturbation", methods.coalition_perturbation, "white box", own=True
    ),
    "coalition-keeping": Method(
        "CoalitionPerturbation",
        partial(methods.coalition_perturbation, deletion=False),
        "white box",
        own=True,
        option="deletion=False",
    ),
    "LayerGradCam": Method("Captum LayerGradCam", methods.grad_cam, "white box"),
    "ScoreCAM": Method(
        "pytorch-grad-cam ScoreCAM", methods.score_cam, "white box", "published budget"
    ),
    "LeGrad": Method("LeGrad", legrad, "white box", networks=OF_TRANSFORMERS),
    "AttnLRP": Method("AttnLRP", attn_lrp, "white box", networks=OF_TRANSFORMERS),
    "RISE-800": Method("RISE", methods.rise, "black box", "our budget"),
    "RISE-2000": Method(
        "RISE", partial(methods.rise, n_masks=2000), "black box", "our budget"
    ),
    "HSIC-500": Method("HSIC", hsic, "black box", "published budget"),
    "HSIC-800": Method("HSIC", partial(hsic, n_masks=800), "black box", "our budget"),
    "Sobol-2112": Method("Sobol", sobol, "black box", "published budget"),
    "Sobol-792": Method(
        "Sobol", partial(sobol, n_designs=12), "black box", "our budget"
    ),
    "SHAP-500": Method(
        "SHAP Partition", shap_partition, "black box", "published budget"
    ),
    "SHAP-800": Method(
        "SHAP Partition",
        partial(shap_partition, n_evaluations=800),
        "black box",
        "our budget",
    ),
    "region-search": Method(
        "greedy region search", region_search, "black box", "published budget"
    ),
    "permutation-800": Method(
        "shapiq permutation, superpixels",
        permutation_shapley,
        "black box",
        "our budget",
    ),
    "SVARM-800": Method("shapiq SVARM, superpixels", svarm, "black box", "our budget"),
    "Occlusion-400": Method(
        "Captum Occlusion", methods.occlusion, "black box", "our budget"
    ),
    "FeatureAblation": Method(
        "Captum FeatureAblation, superpixels", methods.feature_ablation, "black box"
    ),
    "Lime-400": Method("Captum Lime", methods.lime, "black box", "our budget"),
    "KernelShap-400": Method(
        "Captum KernelShap", methods.kernel_shap, "black box", "our budget"
    ),
    "centre": Method("blob in the centre", methods.centre, "no model"),
    "edges": Method("edge filter", methods.edges, "no model"),
    "random": Method("random", methods.random, "no model"),
}
