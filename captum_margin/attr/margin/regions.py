r"""MARGIN's own form of saliency: single regions, each taken away alone.

Anirudh et al. 2021: region m is replaced by the baseline in :math:`I_m`, its saliency
is :math:`s_m = |p(I) - p(I_m)|`; regions are neighbours when their saliency is alike;
the function on them is their size. The high-pass filter finds, among regions of like
saliency, those whose size stands out. A pixel's saliency S is the mean of s over the
regions that hold it, weighted by 1 / size, its influence I likewise; the map is
:math:`S \odot I`.

The paper gives an edge the value :math:`e_{mn} = |s_m - s_n|`, which is 0 for regions
of like saliency: it is read here as the distance by which neighbours are found, and
edges have no weight. Neighbourhoods of 20 to 40 nodes served it in all case studies
(section "Sensitivity to graph construction"); here, with ``paper``, they are 30, and
the shift is the symmetric one of the paper's listings. Our own form has 10 neighbours
and their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.arguments import number_regions
from captum_margin.attr.margin.domains.single_regions import SingleRegions
from captum_margin.attr.margin.masking import MaskedScorer
from captum_margin.attr.margin.stages import ExampleMaps, Stage
from captum_margin.signal import Graph, MarginResult, knn_graph_1d, margin
from captum_margin.signal.protocol import Sided

__all__ = ["explain_by_regions", "region_margin"]

_N_NEIGHBORS = 10
_N_NEIGHBORS_OF_PAPER = 30


def explain_by_regions(
    scorer: MaskedScorer,
    original: Tensor,
    partitions: Sequence[tuple[Tensor, ...]],
    *,
    signed: bool,
    sided: Sided,
    paper: bool,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[ExampleMaps]:
    """Explains examples by their regions.

    Args:
        scorer (MaskedScorer): Scores of B examples.
        original (Tensor): Scores of the examples themselves, (B,).
        partitions (Sequence): For each example one tensor an input, (S, *shape) or
            broadcastable to that.
        signed (bool): Whether a region that lowers the score keeps its sign.
        sided (str): As in :func:`region_margin`.
        paper (bool): As there.
        dtype (torch.dtype): Of masks and maps.
        progress (tqdm): Told of every masked copy.
    """
    domains = []
    for example, of_inputs in enumerate(partitions):
        domains.append((example, SingleRegions(*_number_scales(of_inputs), dtype)))
    progress.reset(total=sum(len(domain) for _, domain in domains))
    scores = scorer.masked(domains, progress)
    explanations = []
    for (example, domain), of_domain in zip(domains, scores, strict=True):
        saliency = (original[example] - of_domain).to(dtype)
        saliency = saliency if signed else saliency.abs()
        result = region_margin(saliency, domain.sizes, sided=sided, paper=paper)
        maps = tuple(
            of_saliency * of_influence
            for of_saliency, of_influence in zip(
                domain.paint(saliency), domain.paint(result.influence), strict=True
            )
        )
        stage = Stage(domain, of_domain, result.influence)
        explanations.append(ExampleMaps(maps, of_domain, (stage,)))
    return explanations


def region_margin(
    saliency: Tensor, sizes: Tensor, *, sided: Sided, paper: bool = False
) -> MarginResult:
    r"""Among regions of like saliency, how much the size of each stands out.

    The graph joins the nearest in the one-dimensional space of the saliency, the
    function is :math:`f(m) = size_m / \max size`, the influence
    :math:`\|f - A f\|^2` of the chosen side.

    Args:
        saliency (Tensor): s of shape (R,).
        sizes (Tensor): Elements of the regions, (R,).
        sided (str): ``"below"`` keeps regions smaller than their neighbours,
            ``"above"`` larger ones, ``"both"`` all (the paper).
        paper (bool, optional): The graph and shift of the paper, see above.
            Default: False.

    Returns:
        MarginResult: Graph, function, filtered signal and influence (R,).

    Cost: O(R log R).
    """
    k = _N_NEIGHBORS_OF_PAPER if paper else _N_NEIGHBORS
    graph = Graph(*knn_graph_1d(saliency, k), len(sizes))
    shift: Literal["symmetric", "random_walk"] = "symmetric" if paper else "random_walk"
    return margin(graph, sizes / sizes.max(), shift=shift, sided=sided)


def _number_scales(
    partitions: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], int]:
    """Numbers the regions of S partitions one after another."""
    n_scales = max(len(partition) for partition in partitions)
    scales, start = [], 0
    for scale in range(n_scales):
        regions, n_regions = number_regions(
            tuple(partition[scale] for partition in partitions)
        )
        scales.append([region + start for region in regions])
        start += n_regions
    return tuple(torch.stack(of_input) for of_input in zip(*scales, strict=True)), start
