"""Noise masks guided by coalitions of deep features.

Hu et al., "Perturbation on Feature Coalition: Towards Interpretable Deep Neural
Networks", 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from torch import Tensor, nn

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
from captum_margin._model.layouts import check_layout
from captum_margin._model.precision import full_precision
from captum_margin._whole_numbers import whole_number
from captum_margin.attr.coalition.clustering import feature_coalitions
from captum_margin.attr.coalition.search import (
    STEPS_A_DELETION,
    Search,
    SearchResult,
    search,
)

__all__ = ["CoalitionDetails", "CoalitionPerturbation"]

_DEFAULT: dict[str, Any] = {
    "n_steps": 50,
    # A step that took too much is followed by many that give it back: were the search
    # to end there, on some photographs a pattern of the background would be left.
    "patience": 25,
    "mask_size": 14,
    "smoothing": 1 / 28,
    "noise": 0.0,
    "n_samples": 4,
    "confidence": "drop",
    "confidence_weight": 6.0,
    "coalition_weight": 0.1,
    "evidence_weight": 0.5,
    "move_coalitions": True,
    "deletion": True,
    "learning_rate": 0.05,
}
#: Where nothing resisted there still is so much evidence that p tells pixels apart.
_LEAST_EVIDENCE = 0.2
#: The setting of the paper, as far as a summary of it tells: the weights and 1 - p are
#: the paper's, the noise, the margin and how the search is done our reading.
_PAPER: dict[str, Any] = {
    "n_steps": 500,
    "patience": 10,
    "mask_size": None,
    "smoothing": 0.0,
    "noise": 1.0,
    "n_samples": 16,
    "confidence": "margin",
    "confidence_weight": 100.0,
    "coalition_weight": 1.0,
    "evidence_weight": 0.0,
    "move_coalitions": False,
    "deletion": False,
    "learning_rate": 0.05,
}


@dataclass(frozen=True, eq=False)
class CoalitionDetails:
    """How the maps of a batch came about: :meth:`CoalitionPerturbation.attribute`.

    Attributes:
        coalitions (Tensor): The regions of each image, numbers from 0, (B, H, W).
        kept (Tensor): 1 - p, what share of each pixel could not be taken away,
            (B, 1, H, W), or (B, C, H, W) with ``mask_size=None``.
        evidence (Tensor): g, how strongly the score resisted there, of this shape.
        losses (Tensor): Extent, confidence and coalition losses of each image at each
            step, before they are weighted, (n_steps, 3, B); NaN after its last step.
        n_steps (Tensor): Steps that each image took, (B,); 0 where all could go.
        n_evaluations (Tensor): Perturbed images, each a forward and a backward pass,
            that each image took, (B,).
        settings (dict): Every option of the run, plain values.
    """

    coalitions: Tensor
    kept: Tensor
    evidence: Tensor
    losses: Tensor
    n_steps: Tensor
    n_evaluations: Tensor
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """A dict of what a saved :class:`captum_margin.Explanation` keeps of it."""
        names = ("coalitions", "kept", "evidence", "losses", "n_steps", "n_evaluations")
        return {name: getattr(self, name) for name in names}


class CoalitionPerturbation(PerturbationAttribution):
    r"""Finds how much of an image can be taken away while its class stands.

    A perturbation :math:`p \in [0, 1]^{H \times W}` fades the image x towards a
    baseline b, with noise a if asked for, and is made as large as the score allows:

    .. math:: \tilde x = x + p (b - x + a), \qquad
        \min_p \; \lambda L_r + \mu L_{conf} + \nu L_c

    - :math:`L_r = -\mathrm{mean}(p)`: take away much;
    - :math:`L_{conf}`: the mean over the noises of how far the score falls,
      :math:`\max(0, \log f_t(x) - \log f_t(\tilde x))` (``confidence="drop"``), or of
      how far other classes are above the target,
      :math:`\sum_j \max(0, f_j(\tilde x) - f_t(\tilde x))` over their number
      (``"margin"``, the paper);
    - :math:`L_c`, over coalitions :math:`C_i`, regions of like deep features, see
      :func:`~captum_margin.attr.feature_coalitions`, with a Gaussian G. Either
      :math:`-\sum_i \mathrm{mean}_{C_i} (p * G)` (``consistency="mean"``): take away
      the small ones too. How p is spread within a coalition costs nothing. Or
      :math:`\sum_i |C_i|^{-1} \sum_{\{n, m\} \subseteq C_i} G(n - m) (p_n - p_m)^2`
      (``"evenness"``): pixels of one coalition near each other have one p.

    The attribution is high where nothing could be taken away, and among that where the
    score resisted most,

    .. math:: (1 - p)^{1 - \eta} \; \Big( \frac{0.2 + g}{1.2} \Big)^{\eta},

    a geometric mean: at the end of a search p is near 0 or 1, and the evidence g in
    [0, 1] ranks what is alike there. It is the mean of the slope
    :math:`\partial L_{conf} / \partial p` over all steps, which is known anyway,
    negative ones 0, in units of its largest. With ``deletion`` every fifth step also
    takes away what is kept and shows all else: the slope of :math:`L_{conf}` at 1 - p,
    in units of its own largest, is added. What suffices for a network is not all that
    it cannot do without (the deletion game of Fong and Vedaldi, "Interpretable
    Explanations of Black Boxes by Meaningful Perturbation", ICCV 2017).

    Without noise the map is 0, with a warning, where the score is no lower at the
    baseline: all can go. By default p is a coarse grid, enlarged, plus one value for
    each coalition, all smoothed, so that a coalition moves as a whole and tens of
    evaluations suffice; g is as coarse and as smooth.

    Hu et al., "Perturbation on Feature Coalition: Towards Interpretable Deep Neural
    Networks", 2024, of which we know a summary only. ``paper=True`` is our reading of
    it: at least ``n_coalitions`` of them at full resolution, a mask of every pixel and
    channel, 1 - p alone. The summary gives :math:`\lambda = 1`, :math:`\mu = 100` and
    :math:`\nu = 1` without the terms that they weight, which we read as above, a sigma
    of 1 pixel, and a Gaussian-weighted penalty on arbitrary perturbations within a
    coalition without its formula: words that ``"evenness"`` fits as well or better.
    Pure noise, 500 steps of 16 noises and the margin are ours.

    It replaces :class:`captum.attr.LayerGradCam` by changing the class name; gradients
    reach the inputs only. A random network's map correlates by 0.26 to 0.41 with a
    trained one's, by 0.06 to 0.23 on another photograph: some of it is where images
    have their objects.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: nn.Module | list[nn.Module] | None = None,
        *,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Makes an explainer of a model.

        Args:
            forward_func (Callable): The model, or any differentiable function of the
                images: logits or probabilities (B, C), or one score an image.
            layer (Module or list, optional): Layers whose feature maps the coalitions
                are made of. Default: None, those that
                :func:`~captum_margin.attr.feature_coalitions` finds; this needs
                ``forward_func`` to be a Module.
            reshape_transform (Callable, optional): As there. Default: None.
        """
        PerturbationAttribution.__init__(self, forward_func)
        self.layer, self.reshape_transform = layer, reshape_transform

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: the attribution is a mask, not a share of the score."""
        return False

    @check_keywords
    @log_usage(part_of_slo=True)
    @torch.inference_mode(False)  # where gradients cannot be had at all
    @torch.no_grad()
    @full_precision()
    def attribute(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object | None = None,
        n_steps: int | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        *,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_coalitions: int = 16,
        extent_weight: float = 1.0,
        confidence_weight: float | None = None,
        coalition_weight: float | None = None,
        evidence_weight: float | None = None,
        paper: bool = False,
        softmax: bool = True,
        seed: int = 0,
        return_details: bool = False,
        confidence: Literal["drop", "margin"] | None = None,
        consistency: Literal["mean", "evenness"] = "mean",
        consistency_sigma: float = 1.0,
        mask_size: int | Literal["default"] | None = "default",
        smoothing: float | None = None,
        noise: float | None = None,
        n_samples: int | None = None,
        move_coalitions: bool | None = None,
        deletion: bool | None = None,
        learning_rate: float | None = None,
    ) -> (
        TensorOrTupleOfTensorsGeneric
        | tuple[TensorOrTupleOfTensorsGeneric, CoalitionDetails]
    ):
        r"""Attributes the target's score to the pixels of images.

        Args:
            inputs (Tensor): Images (B, C, H, W), floating point.
            baselines (number or Tensor, optional): b, what the image fades to, as in
                :class:`captum.attr.FeatureAblation`. Default: None, the mean colour of
                each image; with ``paper=True`` the image itself, so that all that
                happens is noise.
            target (int, tuple, Tensor or list, optional): As in
                :class:`captum.attr.FeatureAblation`. Default: None.
            additional_forward_args (Any, optional): As there; what of it goes along
                with the examples is said at :class:`captum_margin.Shared`. Default:
                None.
            n_steps (int, optional): Steps of Adam at most; an image is done before if
                its loss has not fallen for 25 steps (paper: 10). Default: None, 50
                (paper: 500).
            internal_batch_size (int, optional): Perturbed images in one forward and
                backward pass. Default: None, all B times the noises.
            show_progress (bool, optional): A bar over the steps. Default: False.
            feature_mask (Tensor, optional): Coalitions of one's own, integers that
                broadcast to the images, one for all channels.
                Default: None, :func:`~captum_margin.attr.feature_coalitions`.
            n_coalitions (int, optional): As there, without ``feature_mask``: how many
                at most, with ``paper=True`` how many at least. Default: 16.
            extent_weight (float, optional): :math:`\lambda`, at least 0. Default: 1.0.
            confidence_weight (float, optional): :math:`\mu`, at least 0.
                Default: None, 6 (paper: 100).
            coalition_weight (float, optional): :math:`\nu`, at least 0.
                Default: None, 0.1 (paper: 1).
            evidence_weight (float, optional): :math:`\eta`, within [0, 1]; 0: the
                attribution is 1 - p. Default: None, 0.5 (paper: 0).
            paper (bool, optional): The setting of the paper for all that is not given.
                Default: False.
            softmax (bool, optional): Whether outputs (B, C > 1) are logits; others are
                used as they are, and falls of the score are in units of what the
                baseline changes. The paper's margin takes outputs as they are in
                either case. Default: True.
            seed (int, optional): Of coalitions and noise, the same for each image.
                Default: 0.
            return_details (bool, optional): Whether a :class:`CoalitionDetails` is
                returned as well. Default: False.
            confidence (str, optional): The loss of the score, ``"drop"`` or
                ``"margin"``, see the class. Default: None, ``"drop"`` (paper:
                ``"margin"``).
            consistency (str, optional): The loss of the coalitions, ``"mean"`` or
                ``"evenness"``, see the class. Default: ``"mean"``.
            consistency_sigma (float, optional): Standard deviation of its Gaussian, in
                pixels, above 0. Default: 1.0.
            mask_size (int, optional): Side of the grid whose enlargement p is; None: a
                value for every pixel and channel. Default: ``"default"``, 14 (paper:
                None).
            smoothing (float, optional): Sigma of a Gaussian over p, as a share of the
                shorter side. Default: None, 1 / 28 (paper: 0).
            noise (float, optional): Standard deviation of a, in those of the image.
                Default: None, 0 (paper: 1).
            n_samples (int, optional): Noises a step, in pairs of opposite sign.
                Default: None, 4 (paper: 16).
            move_coalitions (bool, optional): Whether each coalition has a value of its
                own beside those of the grid. Default: None, True (paper: False).
            deletion (bool, optional): Whether evidence is also sought where what is
                kept is taken away, in a fifth more evaluations. Default: None, True
                (paper: False).
            learning_rate (float, optional): Of Adam. Default: None, 0.05.

        Returns:
            Tensor or tuple: The maps, in the shape and dtype of ``inputs``, in [0, 1],
            the same for each channel unless ``mask_size=None``; a tuple for a tuple.
            The same for an image alone and in a batch. With ``return_details`` also a
            :class:`CoalitionDetails`.

        Raises:
            AssertionError: If a target is missing, or not one an image, as in Captum.
            TypeError: If the inputs are not floating point or an option is unknown.
            ValueError: If the inputs are not one tensor of images, there is no such
                class, an option is out of its range, there are no feature maps for the
                coalitions, or the scores have no finite gradient.

        Cost: ``n_steps`` forward and backward passes an image, and a fifth more with
        ``deletion``, times ``n_samples`` with noise; two forward passes, and the
        coalitions. Memory is that of
        ``internal_batch_size`` images in a backward pass, and some tens of values per
        pixel and image.

        Example:
            >>> import torch
            >>> from captum_margin.attr import CoalitionPerturbation
            >>> _ = torch.manual_seed(0)
            >>> net = torch.nn.Sequential(
            ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(),
            ...     torch.nn.Flatten(), torch.nn.Linear(4 * 16 * 16, 2)).eval()
            >>> image = torch.rand(1, 3, 16, 16)
            >>> CoalitionPerturbation(net).attribute(image, target=0).shape
            torch.Size([1, 3, 16, 16])
        """
        is_tuple = isinstance(inputs, tuple)
        images = _one_image_batch(format_inputs(inputs), self.forward_func)
        warn_of_training(self.forward_func)
        used = _with_defaults(
            paper,
            n_steps=n_steps,
            mask_size=mask_size,
            smoothing=smoothing,
            noise=noise,
            n_samples=n_samples,
            confidence=confidence,
            confidence_weight=confidence_weight,
            coalition_weight=coalition_weight,
            evidence_weight=evidence_weight,
            move_coalitions=move_coalitions,
            deletion=deletion,
            learning_rate=learning_rate,
        )
        for name in ("n_steps", "n_samples", "mask_size"):
            if used[name] is not None:
                used[name] = whole_number(used[name], name)
        if internal_batch_size is not None:
            internal_batch_size = whole_number(
                internal_batch_size, "internal_batch_size"
            )
        seed = whole_number(seed, "seed")
        weights = used.pop("confidence_weight"), used.pop("coalition_weight")
        eta = used.pop("evidence_weight")
        used["deletion"] = used["deletion"] and eta > 0  # else nobody asks for it
        options = Search(
            weights=(extent_weight, *weights),
            consistency=consistency,
            consistency_sigma=consistency_sigma,
            softmax=softmax,
            seed=seed,
            rows=internal_batch_size
            or len(images) * (used["n_samples"] if used["noise"] else 1),
            show_progress=show_progress,
            **used,
        )
        _check(options, internal_batch_size, eta)
        coalitions = self._coalitions(
            images, additional_forward_args, feature_mask, n_coalitions, seed, paper
        )
        found = search(
            self.forward_func,
            images,
            _baseline(baselines, images, paper),
            target,
            additional_forward_args,
            coalitions,
            options,
        )
        output = format_output(is_tuple, (_maps(found, images, eta),))
        if not return_details:
            return output
        settings = {
            **used,
            **_weights_by_name(options),
            "consistency": consistency,
            "consistency_sigma": consistency_sigma,
            "evidence_weight": eta,
            "n_coalitions": None if feature_mask is not None else n_coalitions,
            "paper": paper,
            "softmax": softmax,
            "seed": seed,
        }
        return output, _details(found, coalitions, settings)

    def _coalitions(
        self,
        images: Tensor,
        args: object,
        feature_mask: Tensor | tuple[Tensor, ...] | None,
        n_coalitions: int,
        seed: int,
        paper: bool,
    ) -> Tensor:
        """Coalitions (B, H, W), numbers from 0 in each image."""
        if feature_mask is None:
            return feature_coalitions(
                self.forward_func,
                images,
                self.layer,
                args,
                n_coalitions=n_coalitions,
                paper=paper,
                seed=seed,
                reshape_transform=self.reshape_transform,
            )
        (mask,) = expand_feature_mask(feature_mask, (images,))
        if mask.shape[1] > 1 and bool((mask != mask[:, :1]).any()):
            raise ValueError(
                "expected a feature mask that is the same for each channel; one of "
                "shape (B, 1, H, W) is"
            )
        mask = mask[:, 0].expand(len(images), *images.shape[2:])
        return torch.stack([m.unique(return_inverse=True)[1] for m in mask])

    def attribute_future(self) -> None:
        """Not available.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("attribute_future is not implemented")


def _one_image_batch(
    inputs: tuple[Tensor, ...], forward_func: Callable[..., Tensor]
) -> Tensor:
    """The only input, images.

    Raises:
        TypeError: If it is not floating point.
        ValueError: If there are several, or it is no images.
    """
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(inputs) != 1 or inputs[0].dim() != 4:
        raise ValueError(
            f"expected one tensor of images (B, C, H, W) (got {shapes}); explain other "
            "inputs with MarginSaliency"
        )
    check_layout(inputs[0], forward_func)
    if not inputs[0].is_floating_point():
        raise TypeError(
            f"expected floating-point images (got {inputs[0].dtype}); convert them as "
            "the model needs them, for example with inputs.float()"
        )
    return inputs[0].detach()


def _with_defaults(paper: bool, **given: Any) -> dict[str, Any]:
    """What was given, and the rest of it from the setting, the paper's or ours."""
    setting = {**_DEFAULT, **(_PAPER if paper else {})}
    unset: dict[str, object] = {"mask_size": "default"}  # its None means something
    return setting | {
        name: value for name, value in given.items() if value != unset.get(name)
    }


def _check(options: Search, internal_batch_size: int | None, eta: float) -> None:
    """Refuses options out of their range."""
    if internal_batch_size is not None and internal_batch_size < 1:
        raise ValueError(
            f"expected internal_batch_size >= 1 (got {internal_batch_size})"
        )
    if options.confidence not in ("drop", "margin"):
        raise ValueError(
            f"expected confidence 'drop' or 'margin' (got {options.confidence!r})"
        )
    if options.consistency not in ("mean", "evenness"):
        raise ValueError(
            f"expected consistency 'mean' or 'evenness' (got {options.consistency!r})"
        )
    if not 0 < options.consistency_sigma < torch.inf:
        raise ValueError(
            f"expected a finite consistency_sigma > 0 (got {options.consistency_sigma})"
        )
    if not all(0 <= weight < torch.inf for weight in options.weights):
        raise ValueError(f"expected finite weights >= 0 (got {options.weights})")
    if not 0 <= eta <= 1:
        raise ValueError(f"expected evidence_weight within [0, 1] (got {eta})")
    if options.n_steps < 1 or not options.learning_rate > 0:
        raise ValueError(
            "expected n_steps >= 1 and learning_rate > 0 "
            f"(got {options.n_steps} and {options.learning_rate})"
        )
    if options.mask_size is not None and options.mask_size < 1:
        raise ValueError(f"expected mask_size >= 1 or None (got {options.mask_size})")
    if not 0 <= options.noise < torch.inf or not 0 <= options.smoothing < 1:
        raise ValueError(
            "expected a finite noise >= 0 and a smoothing within [0, 1) (got "
            f"{options.noise} and {options.smoothing})"
        )
    if options.n_samples < 2 or options.n_samples % 2:
        raise ValueError(
            f"expected an even n_samples >= 2, pairs of noises (got "
            f"{options.n_samples})"
        )


def _baseline(baselines: BaselineType, images: Tensor, paper: bool) -> Tensor:
    """What the images fade to, of their shape."""
    if baselines is None:
        baselines = images if paper else images.mean(dim=(2, 3), keepdim=True)
    (base,) = expand_baselines(baselines, (images,))
    return base


def _maps(found: SearchResult, images: Tensor, eta: float) -> Tensor:
    """What could not be taken away, in the shape and dtype of the images."""
    kept = _kept(found)
    evidence = (_LEAST_EVIDENCE + found.evidence) / (_LEAST_EVIDENCE + 1)
    maps = kept.pow(1 - eta) * evidence.pow(eta)
    # 0 to the power of 0 is 1, and where nothing has to be kept all is 0.
    nothing = (kept == 0).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    maps = maps.where(~nothing, 0).expand_as(images).contiguous()
    return maps.to(images.dtype)


def _kept(found: SearchResult) -> Tensor:
    """1 - p; a mean of p can be beyond 1 by rounding."""
    return (1 - found.perturbation).clamp(0, 1)


def _weights_by_name(options: Search) -> dict[str, float]:
    extent, confidence, coalition = options.weights
    return {
        "extent_weight": extent,
        "confidence_weight": confidence,
        "coalition_weight": coalition,
    }


def _details(
    found: SearchResult, coalitions: Tensor, settings: dict[str, Any]
) -> CoalitionDetails:
    n_noises = settings["n_samples"] if settings["noise"] > 0 else 1
    n_deletions = found.n_steps // STEPS_A_DELETION if settings["deletion"] else 0
    return CoalitionDetails(
        coalitions,
        _kept(found),
        found.evidence,
        found.losses,
        found.n_steps,
        n_noises * (found.n_steps + n_deletions),
        settings,
    )
