"""Where the image of a suspect speaks for the label that the others give it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin.attr import MarginSaliency
from captum_margin.cli.audit.data import AuditData
from captum_margin.cli.audit.questions import Answers
from captum_margin.cli.audit.seen import SeenImages
from captum_margin.cli.output import CommandError, one_line
from captum_margin.influence import Evidence

MOST = 60
"""Suspects that are explained."""

# Of each image, with MarginSaliency: with half of them nothing stood out of the noise
# where a part of what speaks for the class is enough.
_EVALUATIONS = 800
_COLOUR = (255, 120, 0)


@dataclass
class Why:
    """Heat maps of suspects.

    Attributes:
        heat (dict[int, Tensor]): By sample where it speaks for the other class, within
            [0, 1], of the square that the network sees, (h, w).
        record (dict, optional): How they were made, or why there are none, fit for
            JSON; None where there are no images.
    """

    heat: dict[int, Tensor] = field(default_factory=dict)
    record: dict[str, Any] | None = None

    def told(self) -> str:
        """In a line."""
        record = self.record or {}
        if "left_out" in record:
            return f"none, for {record['left_out']}"
        if record.get("by") == "slope":
            return f"slope of the votes on the feature maps of {record['layer']}"
        return f"MarginSaliency of the votes, {_EVALUATIONS} evaluations"


def explain_suspects(
    data: AuditData,
    answers: Answers,
    n_top: int,
    by_saliency: bool,
    show_progress: bool = False,
) -> Why:
    """Heat maps of the first suspects, of which the page shows as many.

    Of the vote of all samples: its slope at the features of the image, times those of
    each position, see :meth:`Evidence.positions`. Or, with ``by_saliency``, how much
    that vote rises when parts of the image are shown.

    Cost: a forward pass of each suspect, or 800.
    """
    if data.seen is None or answers.noise is None or answers.is_issue is None:
        return Why()
    assert answers.suspects is not None and answers.decided is not None
    order = answers.suspects.ranking()
    flagged = order[answers.is_issue[order]][: min(n_top, MOST)].tolist()
    seen = data.seen
    why = Why(record={"by": "MarginSaliency" if by_saliency else "slope"})
    assert why.record is not None
    if not flagged:
        why.record["left_out"] = "there are no suspects"
        return why
    try:
        if not by_saliency and not seen.find_maps(flagged[0]):
            why.record["left_out"] = (
                "the features are no mean over positions of feature maps"
            )
            return why
        for i in tqdm(flagged, desc="maps", disable=not show_progress):
            evidence = answers.noise.evidence(i, other=int(answers.decided[i]))
            try:
                heat = (
                    _by_saliency(data, seen, evidence, i)
                    if by_saliency
                    else _by_slope(data, seen, evidence, i)
                )
            except CommandError:  # gone since
                continue
            heat = heat.clamp(min=0)
            if float(heat.max()) > 0:
                why.heat[i] = heat / heat.max()
    except Exception as error:  # a network of the user's may raise anything
        answers.errors["maps of the suspects"] = one_line(error)
        why.record["left_out"] = one_line(error)
    why.record["maps"] = len(why.heat)
    if not by_saliency:
        why.record["layer"] = seen.maps_of
    return why


def _by_slope(data: AuditData, seen: SeenImages, evidence: Evidence, i: int) -> Tensor:
    maps = seen.maps(i).cpu().float()
    positions = maps.flatten(2).transpose(1, 2)  # (1, h w, F)
    if data.scaling is not None:
        positions = data.scaling(positions[0])[None]
    maps = positions.transpose(1, 2).unflatten(2, maps.shape[2:])
    return evidence.positions(maps)[0]


def _by_saliency(
    data: AuditData, seen: SeenImages, evidence: Evidence, i: int
) -> Tensor:
    def score(images: Tensor) -> Tensor:
        features = seen.features(images).cpu().float()
        if data.scaling is not None:
            features = data.scaling(features)
        return evidence(features)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map of zeros, which is not shown
        # The image's own mean colour may be of the other class: of a suspect half of it
        # nothing would be left to speak for it. Zero, the network's grey, is of none.
        saliency: Tensor = MarginSaliency(score).attribute(
            seen.image(i), baselines=0.0, n_evaluations=_EVALUATIONS
        )
    return saliency[0, 0].cpu()


def overlaid(picture: Any, heat: Tensor, side_seen: float | None) -> Any:
    """A picture with a heat map over the square in its middle, or over all of it.

    Args:
        picture (Image): PIL's, RGB.
        heat (Tensor): Within [0, 1], (h, w).
        side_seen (float, optional): Side of the square, of the picture's shorter side;
            None for all of the picture.
    """
    width, height = size = picture.size
    if side_seen is not None:
        size = (max(1, round(side_seen * min(size))),) * 2
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    grown = torch.nn.functional.interpolate(
        heat[None, None].float(), size[::-1], mode="bilinear", align_corners=False
    )[0, 0]
    strength = torch.zeros(height, width)
    strength[top : top + size[1], left : left + size[0]] = grown.clamp(0, 1)
    return _painted(picture, strength)


def _painted(picture: Any, strength: Tensor) -> Any:
    """Colour where the strength is; grey, and a little darker, where there is none."""
    import numpy as np
    from PIL import Image

    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    colour = np.asarray(_COLOUR, dtype=np.float32)
    share = 0.8 * strength.numpy()[..., None]
    mixed = (0.8 * grey) * (1 - share) + colour * share
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
