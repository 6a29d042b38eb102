"""Scores of masked copies of the inputs, in chunks through one reused buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_margin._model.captum import (
    TargetType,
    scores_of,
    select_rows,
    target_outputs,
    target_scores,
)
from captum_margin._model.outputs import SoftmaxWatch
from captum_margin._model.refusals import Examples

__all__ = ["Domain", "MaskedScorer"]


class Domain(Protocol):
    """The nodes of one example: ways to keep a part of it."""

    def __len__(self) -> int:
        """N, the number of nodes."""

    def masks(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """How much of each element some nodes keep, in [0, 1].

        Returns:
            tuple[Tensor, ...]: One tensor an input, broadcastable to
            (n, *input.shape[1:]).
        """


class MaskedScorer:
    """The target's score when only a part of an example is present.

    A masked copy is ``baseline + mask * (input - baseline)``; inputs that are not
    floating point (token ids, flags) are kept where the mask is above one half.

    Args:
        forward_func (Callable): The model.
        inputs (tuple[Tensor, ...]): B examples.
        baselines (tuple[Tensor, ...]): What stands where nothing is present, of the
            shapes of the inputs.
        target (int, tuple, Tensor or list, optional): As in Captum, for B examples.
        additional_forward_args (Any, optional): As in Captum.
        softmax (bool): Whether two-dimensional outputs are logits.
        perturbations_per_eval (int): Masked copies of the batch in a forward pass: at
            most ``perturbations_per_eval * B`` rows.

    Cost: beyond the model, a buffer of ``perturbations_per_eval * B`` rows an input
    and their masks.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object,
        *,
        softmax: bool,
        perturbations_per_eval: int,
    ) -> None:
        self.forward_func = forward_func
        self.inputs = inputs
        self.baselines = baselines
        self.target = target
        self.args = additional_forward_args
        self.softmax = softmax
        self.watch = SoftmaxWatch()
        self.n_rows = perturbations_per_eval * inputs[0].shape[0]
        self.output_shape: tuple[int, ...] | None = None

    def unmasked(self) -> Tensor:
        """Scores of the inputs themselves, (B,)."""
        n_examples = len(self.inputs[0])
        output = target_outputs(
            self.forward_func,
            tuple(tensor.clone() for tensor in self.inputs),  # for in-place models
            self.args,
        )
        self.output_shape = tuple(output.shape)
        return scores_of(
            output, self.target, n_examples, softmax=self.softmax, watch=self.watch
        )

    def masked(
        self, domains: Sequence[tuple[int, Domain]], progress: tqdm[Any]
    ) -> list[Tensor]:
        """Scores of all nodes of some (example, domain), one tensor (N,) a domain.

        Chunks run on from domain to domain, so that small ones share a forward pass.
        """
        if not domains:
            return []
        device = self.inputs[0].device
        counts = [len(domain) for _, domain in domains]
        owners = torch.arange(len(domains)).repeat_interleave(torch.tensor(counts))
        examples = torch.tensor([example for example, _ in domains])
        nodes = torch.cat([torch.arange(count) for count in counts]).to(device)
        n_rows = min(self.n_rows, len(owners))
        buffers = [
            tensor.new_empty(n_rows, *tensor.shape[1:]) for tensor in self.inputs
        ]
        scores = []
        for start in range(0, len(owners), n_rows):
            chunk = owners[start : start + n_rows]
            parts, lengths = chunk.unique_consecutive(return_counts=True)
            copies = tuple(buffer[: len(chunk)] for buffer in buffers)
            done = 0
            for part, of_part in zip(
                parts.tolist(),
                nodes[start : start + n_rows].split(lengths.tolist()),
                strict=True,
            ):
                example, domain = domains[part]
                stop = done + len(of_part)
                for index, mask in enumerate(domain.masks(of_part)):
                    self._blend(index, example, mask, copies[index][done:stop])
                done = stop
            rows = examples[chunk]
            target, args = select_rows(
                self.target, self.args, rows, len(self.inputs[0])
            )
            of_chunk = target_scores(
                self.forward_func,
                copies,
                target,
                args,
                softmax=self.softmax,
                watch=self.watch,
                of=Examples(self.inputs, self.args, rows, self.output_shape),
            )
            scores.append(of_chunk.clone())  # it may be a view of the buffer
            progress.update(len(rows))
        return list(torch.cat(scores).split(counts))

    def _blend(self, index: int, example: int, mask: Tensor, out: Tensor) -> None:
        """``baseline + mask * (input - baseline)`` of one input, into copies of it."""
        tensor = self.inputs[index][example]
        baseline = self.baselines[index][example]
        mask = mask.expand(out.shape)
        if tensor.is_floating_point():
            torch.lerp(baseline, tensor, mask.to(tensor.dtype), out=out)
        else:
            torch.where(mask > 0.5, tensor, baseline, out=out)
