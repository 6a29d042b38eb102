"""MARGIN's saliency for any model that can be called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._keywords import check_keywords
from captum_margin._model.arguments import (
    expand_baselines,
    expand_feature_mask,
    warn_of_training,
)
from captum_margin._model.captum import (
    BaselineType,
    TargetType,
    TensorOrTupleOfTensorsGeneric,
    format_inputs,
    format_output,
)
from captum_margin._model.layouts import check_layout, has_channels_first
from captum_margin._model.precision import full_precision
from captum_margin._model.segments import (
    element_partition,
    has_space,
    is_image,
    slic_segments,
)
from captum_margin._whole_numbers import whole_number
from captum_margin.attr.margin.masking import MaskedScorer
from captum_margin.attr.margin.priors import (
    Prior,
    check_place_of_prior,
    check_prior,
    n_passes_of_prior,
    priors_on_patches,
)
from captum_margin.attr.margin.regions import explain_by_regions
from captum_margin.attr.margin.stages import ExampleMaps, Stage
from captum_margin.attr.margin.unions import (
    explain_by_region_unions,
    explain_by_tents,
)
from captum_margin.attr.margin.varied import explain_by_varied_unions
from captum_margin.signal.protocol import Sided

__all__ = ["MarginDetails", "MarginSaliency"]

#: Fewer forward passes say nothing.
MIN_EVALUATIONS = 16
#: Fewer soft unions draw too rough a map to be varied.
MIN_VARIED = 150


@dataclass(frozen=True, eq=False)
class MarginDetails:
    """How the maps of a batch came about: :meth:`MarginSaliency.attribute`.

    Attributes:
        scores (Tensor): The model's scores of the B examples themselves, (B,).
        stages (tuple[tuple[Stage, ...], ...]): For each example the rounds of masked
            copies: their ``domain`` (what each node keeps: ``domain.masks(nodes)``),
            ``scores`` (N,) and ``influence`` (N,).
        segments (tuple[tuple[Tensor, ...], ...], optional): For each example the
            regions of its inputs, one tensor an input, int64 (S, *shape) or
            broadcastable to that: S partitions. None for soft unions, which have none.
        n_forward (int): Forward passes of the example that took most, its own
            included.
        settings (dict): Every option of the run, plain values.
    """

    scores: Tensor
    stages: tuple[tuple[Stage, ...], ...]
    segments: tuple[tuple[Tensor, ...], ...] | None
    n_forward: int
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """A dict of what a saved :class:`captum_margin.Explanation` keeps of it."""
        return {"scores": self.scores, "segments": self.segments}


class MarginSaliency(PerturbationAttribution):
    r"""Black-box saliency: which parts of an input raise the score of a class.

    MARGIN asks a question as a graph, a function on its nodes and a high-pass filter.
    Here a node is a part of the input, shown to the model without the rest:

    - ``domain="unions"`` (default): nodes are N random unions of regions, joined to
      the unions of like size; the function is the model's score s. The evidence of a
      region is the cross-energy of score and presence,
      :math:`\varphi_u = \langle (I - A) s, (I - A) z_u \rangle` over the energy of
      presence: how much a union gains over unions of its size by holding u
      (:math:`z_u` is 1 for the unions that do, A the mean of the neighbours). On
      images, series and volumes the unions are soft, of smooth random fields, and come
      in four rounds, of which each later one keeps, or deletes, variations of the map
      drawn so far, and joins either kind to its like only; one smooth map is fitted to
      the filtered scores of all, and what of it may be noise is shrunk to nothing. Of a
      class that the whole input has little of (a score in the lowest third of the
      range of the unions') the map is varied less: it may be of shapes that masks draw.
      Fewer than 151 evaluations are one round of overlapping tents on a grid of 7 x 7
      cells (24 of a series, 4 x 4 x 4 of a volume), but with a ``prior``: then they are
      three rounds, of which the first is random and judges it.
      Given a ``feature_mask`` or a ``segmentation_func``, its regions are each in half
      of the unions; when all unions fit into ``n_evaluations``, :math:`\varphi` is the
      Banzhaf value.
    - ``domain="regions"``: nodes are single superpixels (SLIC at six scales), each
      taken away alone; regions of like saliency are neighbours and the function is
      their size. The paper's form (case study II), see ``paper``.

    Anirudh et al., "MARGIN: Uncovering Deep Neural Networks Using Graph Signal
    Analysis", 2021 (https://arxiv.org/abs/1711.05407).

    It replaces :class:`captum.attr.LayerGradCam` or
    :class:`captum.attr.FeatureAblation` by changing the class name, and needs nothing
    of the model but its outputs.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        segmentation_func: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Makes an explainer of a model.

        Args:
            forward_func (Callable): The model, or any function of the inputs that
                returns scores: logits or probabilities (B, C), or one score an
                example, (B,) or (B, 1).
            segmentation_func (Callable, optional): From one image (C, H, W) to its
                regions in S partitions, (S, H, W) int64; the maps are means over the
                partitions. Default: None, soft unions for ``domain="unions"`` and
                :func:`~captum_margin.attr.slic_segments` for ``"regions"``
        """
        PerturbationAttribution.__init__(self, forward_func)
        self.segmentation_func = segmentation_func

    @check_keywords
    @log_usage(part_of_slo=True)
    @torch.no_grad()
    @full_precision()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object | None = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 16,
        show_progress: bool = False,
        *,
        domain: Literal["unions", "regions"] = "unions",
        n_evaluations: int = 800,
        signed: bool = True,
        sided: Sided = "below",
        paper: bool = False,
        softmax: bool = True,
        prior: Prior = None,
        deletion: bool = True,
        seed: int = 0,
        return_details: bool = False,
    ) -> (
        TensorOrTupleOfTensorsGeneric
        | tuple[TensorOrTupleOfTensorsGeneric, MarginDetails]
    ):
        r"""Attributes the target's score to the parts of the inputs.

        The model is only called, under ``torch.no_grad``; put it in eval mode first.
        Every example is explained by itself: a batch and its examples, and any
        ``perturbations_per_eval``, give the same maps (up to what the model's own
        arithmetic makes of another batch size).

        Args:
            inputs (Tensor or tuple[Tensor, ...]): As in
                :class:`captum.attr.FeatureAblation`. Images are (B, C, H, W), grey or
                colour, of 16 pixels a side or more; volumes and videos
                (B, C, D, H, W), of 256 places or more; series (B, C, L), of 16 steps
                or more and fewer channels. Three axes whose first layer in the model
                takes the last one (linear, recurrent) are tokens (B, T, F).
            baselines (scalar, Tensor, tuple of scalar, or Tensor, optional): What
                stands where an input is not shown, as there. Default: None, the mean
                colour of each image, and zero for other inputs
            target (int, tuple, Tensor or list, optional): As there. Default: None
            additional_forward_args (Any, optional): As there; what of it goes along
                with the examples is said at :class:`captum_margin.Shared`. Default:
                None
            feature_mask (Tensor or tuple[Tensor, ...], optional): One partition of
                each input into features, as there; it takes the place of the built-in
                regions, and ``segmentation_func``. Default: None; inputs that are not
                one tensor of images, series or volumes then have every element as a
                feature, with a warning where these are more than the evaluations
            perturbations_per_eval (int, optional): Masked copies of the batch in a
                forward pass; at most ``perturbations_per_eval * B`` rows. Default: 16
            show_progress (bool, optional): Shows a progress bar over the masked
                copies. Default: False
            domain (str, optional): ``"unions"`` or ``"regions"``, see the class.
                Default: ``"unions"``
            n_evaluations (int, optional): Forward passes of each example, at least 16;
                fewer are used when fewer tell all. A quarter of the default keeps most
                of the quality on networks of different kinds, see the tutorials.
                ``domain="regions"`` takes one more than there are regions instead.
                Default: 800
            signed (bool, optional): Whether evidence against the target is negative;
                if False, saliency is absolute. Default: True
            sided (str, optional): For ``domain="regions"``: whether the influence is
                that of regions smaller than their neighbours (``"below"``), larger
                (``"above"``), or ``"both"``. Default: ``"below"``
            paper (bool, optional): The form of the paper: ``domain="regions"``,
                ``signed=False``, ``sided="both"``, whatever these are, and the
                symmetric shift of a graph of the 30 nearest (of the paper's 20 to 40)
                by the difference of saliency, without weights. Default: False
            softmax (bool, optional): Whether outputs (B, C) of more than one column
                are logits of one choice, so that the score is the softmax probability
                of the target. Other outputs are used as they are. Pass False for
                probabilities and several labels, of which a warning tells where all
                outputs lie between 0 and 1, and for regressions and logits of several
                labels, which cannot be told from logits of one choice. Default: True
            prior (Tensor, tuple[Tensor, ...] or str, optional): Maps to begin with, on
                images without regions of their own: other methods', or a person's box,
                each of shape (B, 1, h, w) at any resolution, or of the inputs' own; of
                a single one for all examples B is 1. Only where one is high and low
                matters, not its mean or scale. ``"gradcam"`` makes two, Grad-CAM's at
                the last layer of maps, or of tokens, and the gradient in the pixels
                times their difference from the baseline, of a ``forward_func`` that is
                a Module and then no black box; it takes three of the
                ``n_evaluations``. How much is believed of each the scores say, and what
                they contradict is dropped. With a prior 100 evaluations are a good
                budget. Default: None
            deletion (bool, optional): Whether the later rounds of soft unions also
                delete what the map points at, as far as the score has room to fall: the
                map then tells what the model cannot do without, beside what is enough
                for it. If False they only keep it, which finds parts better that speak
                for the target only together; where there are no rounds it says
                nothing. Default: True
            seed (int, optional): Seed of the unions, the same for every example; the
                global random state is neither used nor changed. Default: 0
            return_details (bool, optional): Also returns how the maps came about.
                Default: False

        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **attributions**, or a pair of these
            and **details**:

            - **attributions** (*Tensor* or *tuple[Tensor, ...]*): Of the shape, device
              and floating dtype of the inputs, the same on all channels of an image.
              For unions in units of the score: how much it rises when the part is
              shown; of rounds of soft unions what may be the noise of few unions is
              shrunk to a little below zero, in its order, so that what is above zero
              stands out of it: beside the blur of evidence about one in ten of its
              patches is there by chance (false discovery rate), more where little
              speaks for the target; where nothing is above zero a warning says so. Zero
              everywhere, with a warning, where no masked copy changed the score.
            - **details** (*MarginDetails*): With ``return_details=True``.

        Raises:
            AssertionError: If a target is missing, or not one an example, or
                ``perturbations_per_eval`` is below 1, as in Captum.
            TypeError: If the model returns no tensor, images are integers, or an
                option is unknown.
            ValueError: If there is no such class, channels are last, baselines or
                masks do not broadcast to the inputs, an option is out of its range,
                regions cannot be made of the inputs, or inputs or outputs hold NaN or
                infinity. If a prior is constant, not finite, of another shape, or given
                where there are no soft unions of images, or the model has no layer of
                maps for ``"gradcam"``.

        Cost: ``n_evaluations`` forward passes an example. Beside them about 1 ms a
        pass at 224 x 224 on one CPU core, and memory for a few chunks of masked copies
        and, for each example, N * 1024 numbers (soft unions, of one round at a time;
        N * 4096 with ``return_details``) or N * U (regions), whatever the size of the
        image.

        Examples::

            >>> import torch
            >>> from captum_margin.attr import MarginSaliency
            >>> # The class score is the brightness of the upper left corner.
            >>> model = lambda x: x[:, :, :8, :8].mean(dim=(1, 2, 3))
            >>> image = torch.zeros(1, 3, 32, 32)
            >>> image[:, :, :8, :8] = 1.0
            >>> map = MarginSaliency(model).attribute(image, n_evaluations=200)
            >>> map.shape
            torch.Size([1, 3, 32, 32])
            >>> bool(map[0, 0, :8, :8].mean() > 5 * map[0, 0, 8:, 8:].abs().mean())
            True
        """
        if paper:
            domain, signed, sided = "regions", False, "both"
        _check_options(domain, sided)
        n_evaluations = whole_number(n_evaluations, "n_evaluations", MIN_EVALUATIONS)
        perturbations_per_eval = whole_number(
            perturbations_per_eval, "perturbations_per_eval"
        )
        assert perturbations_per_eval >= 1, (
            "expected perturbations_per_eval of at least 1 (got "
            f"{perturbations_per_eval})"
        )
        seed = whole_number(seed, "seed")
        check_prior(prior)
        is_tuple = isinstance(inputs, tuple)
        formatted = format_inputs(inputs)
        if feature_mask is None:
            for tensor in formatted:  # before the model fails on them in torch's words
                check_layout(tensor, self.forward_func)
        expanded = expand_baselines(baselines, formatted)
        scorer = MaskedScorer(
            self.forward_func,
            formatted,
            expanded,
            target,
            additional_forward_args,
            softmax=softmax,
            perturbations_per_eval=perturbations_per_eval,
        )
        warn_of_training(self.forward_func)
        scores = scorer.unmasked()
        partitions = self._partitions(formatted, feature_mask, domain)
        if prior is not None:
            check_place_of_prior(partitions is None and formatted[0].dim() == 4)
        priors = priors_on_patches(
            prior,
            self.forward_func,
            formatted[0],
            expanded[0],
            target,
            additional_forward_args,
        )
        with tqdm(
            desc=f"{self.get_name()} attribution", disable=not show_progress
        ) as progress:
            explanations = _explain(
                scorer,
                scores,
                partitions,
                domain=domain,
                priors=priors,
                deletion=deletion,
                keep_stages=return_details,
                n_copies=n_evaluations - 1 - n_passes_of_prior(prior),
                signed=signed,
                sided=sided,
                paper=paper,
                seed=seed,
                dtype=_map_dtype(formatted),
                progress=progress,
            )
        maps = _assemble(explanations, formatted, signed)
        in_rounds = priors is not None or n_evaluations > MIN_VARIED
        _warn_of_empty_maps(explanations, partitions is None and in_rounds)
        scorer.watch.warn(stacklevel=3)
        attributions = format_output(is_tuple, maps)
        if not return_details:
            return attributions
        settings = {
            "domain": domain,
            "n_evaluations": n_evaluations,
            "signed": signed,
            "sided": sided,
            "paper": paper,
            "softmax": softmax,
            "prior": prior if prior is None or isinstance(prior, str) else "given",
            "deletion": deletion,
            "seed": seed,
        }
        n_before = 1 + n_passes_of_prior(prior)
        return attributions, MarginDetails(
            scores=scores,
            stages=tuple(explanation.stages for explanation in explanations),
            segments=None if partitions is None else tuple(partitions),
            n_forward=n_before + max(len(found.scores) for found in explanations),
            settings=settings,
        )

    def attribute_future(self) -> None:
        """Not available: explaining takes many passes, one after another."""
        raise NotImplementedError(
            "attribute_future is not implemented for MarginSaliency"
        )

    def _partitions(
        self,
        inputs: tuple[Tensor, ...],
        feature_mask: Tensor | tuple[Tensor, ...] | None,
        domain: str,
    ) -> list[tuple[Tensor, ...]] | None:
        """For each example S partitions of its inputs; None for soft unions."""
        n_examples = len(inputs[0])
        if feature_mask is not None:
            masks = expand_feature_mask(feature_mask, inputs)
            return [
                tuple(mask[min(example, len(mask) - 1)][None] for mask in masks)
                for example in range(n_examples)
            ]
        if self.segmentation_func is not None:
            return _segmented(inputs, self.segmentation_func)
        if len(inputs) == 1 and domain == "unions" and has_space(inputs[0]):
            steps_first = inputs[0].dim() == 3 and (
                has_channels_first(self.forward_func, inputs[0]) is False
            )
            if not steps_first:
                return None
        if len(inputs) == 1 and is_image(inputs[0]):
            return _segmented(inputs, slic_segments)
        if any(is_image(tensor) for tensor in inputs):
            raise ValueError(
                f"expected a feature_mask for {len(inputs)} inputs of which one is an "
                "image; pass one mask an input, for example with slic_segments"
            )
        return [element_partition(inputs)] * n_examples


def _check_options(domain: str, sided: str) -> None:
    if domain not in ("unions", "regions"):
        raise ValueError(f"expected domain 'unions' or 'regions' (got {domain!r})")
    if sided not in ("both", "above", "below"):
        raise ValueError(f"expected sided 'both', 'above' or 'below' (got {sided!r})")


def _segmented(
    inputs: tuple[Tensor, ...], segmentation_func: Callable[[Tensor], Tensor]
) -> list[tuple[Tensor, ...]]:
    """The regions of each image, of any size and type that the function takes."""
    if len(inputs) > 1 or inputs[0].dim() != 4:
        raise ValueError(
            "expected one input of shape (B, C, H, W) for segmentation_func (got "
            f"{[tuple(tensor.shape) for tensor in inputs]}); pass a feature_mask"
        )
    return [
        (_check_segments(segmentation_func(image), image)[:, None],)
        for image in inputs[0]
    ]


def _check_segments(segments: Tensor, image: Tensor) -> Tensor:
    expected = tuple(image.shape[1:])
    if segments.dim() != 3 or tuple(segments.shape[1:]) != expected:
        raise ValueError(
            f"expected segmentation_func to return (S, H, W) with (H, W) = {expected} "
            f"(got {tuple(segments.shape)}); add the axis of the scales with [None]"
        )
    return segments.to(image.device, torch.int64)


def _explain(
    scorer: MaskedScorer,
    scores: Tensor,
    partitions: list[tuple[Tensor, ...]] | None,
    *,
    domain: str,
    priors: Tensor | None,
    deletion: bool,
    keep_stages: bool,
    n_copies: int,
    signed: bool,
    sided: Sided,
    paper: bool,
    seed: int,
    dtype: torch.dtype,
    progress: tqdm[Any],
) -> list[ExampleMaps]:
    """The maps of the examples, in the form of the domain."""
    if domain == "regions":
        assert partitions is not None
        return explain_by_regions(
            scorer,
            scores,
            partitions,
            signed=signed,
            sided=sided,
            paper=paper,
            dtype=dtype,
            progress=progress,
        )
    if partitions is None:
        if priors is None and n_copies < MIN_VARIED:
            return explain_by_tents(scorer, n_copies, seed, dtype, progress)
        return explain_by_varied_unions(
            scorer,
            scores,
            n_copies,
            seed,
            dtype,
            progress,
            priors,
            deletion=deletion,
            keep_stages=keep_stages,
        )
    return explain_by_region_unions(scorer, partitions, n_copies, seed, dtype, progress)


def _map_dtype(inputs: tuple[Tensor, ...]) -> torch.dtype:
    """Half precision is too coarse to average in, and integers have no map."""
    double = any(tensor.dtype == torch.float64 for tensor in inputs)
    return torch.float64 if double else torch.float32


def _assemble(
    explanations: list[ExampleMaps], inputs: tuple[Tensor, ...], signed: bool
) -> tuple[Tensor, ...]:
    """The examples' maps as one tensor an input."""
    maps = []
    for index, tensor in enumerate(inputs):
        stacked = torch.stack(
            [
                explanation.maps[index].expand(tensor.shape[1:])
                for explanation in explanations
            ]
        )
        dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
        maps.append((stacked if signed else stacked.abs()).to(dtype))
    return tuple(maps)


def _warn_of_empty_maps(explanations: list[ExampleMaps], shrunk: bool) -> None:
    for example, explanation in enumerate(explanations):
        scores = explanation.scores
        zero = not any(bool(of_input.any()) for of_input in explanation.maps)
        if zero and scores.max() == scores.min():
            warnings.warn(
                f"no masked copy of example {example} changed the score of the target: "
                "its map is zero; see whether the baseline differs from the input, the "
                "target is the class you mean, and outputs that are no logits get no "
                "softmax (softmax=False)",
                stacklevel=2,
            )
        elif shrunk and all(
            bool((of_input <= 0).all()) for of_input in explanation.maps
        ):
            warnings.warn(
                f"nothing in example {example} speaks for the target beyond the noise "
                f"of {len(scores)} masked copies: its map has no value above zero, and "
                "what is highest is a guess; take more n_evaluations, or see whether "
                "the target is the class you mean",
                stacklevel=2,
            )
