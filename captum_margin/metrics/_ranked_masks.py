r"""From a map to the images in which its top pixels are kept or removed.

All metrics here walk one path of images. With P pixels, ranked by the map, position

- 0 is the insertion baseline,
- n <= P is the image's n top pixels on the insertion baseline,
- P is the image itself,
- P + n is the image with its n top pixels replaced by the deletion baseline,
- 2 P is the deletion baseline.

So a whole curve, or both, is a set of positions per example; equal positions are
evaluated once, and the image in the middle is shared by both curves.

Ties: pixels of equal value have no order among themselves, so only the ends of a
group of equal pixels are images the map defines. A count inside a group is scored by
linear interpolation, in the number of pixels, of the scores at the two ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_margin.metrics._images import Scorer

__all__ = [
    "TIE_RULE",
    "RankedPath",
    "Ranking",
    "at_least_float32",
    "rank_pixels",
    "step_counts",
]

TIE_RULE = (
    "pixels of equal value are one group; inside a group the score is the linear "
    "interpolation of the scores at the group's two ends"
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of the pixels, most important first.

    Attributes:
        ranks (Tensor): Place of every pixel in the order, int32, (B, 1, H, W).
        lower (Tensor): Of every count 0 to P, the last group end not above it,
            (B, P + 1).
        upper (Tensor): Of every count 0 to P, the first group end not below it,
            (B, P + 1).
    """

    ranks: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def n_pixels(self) -> int:
        """P, the number of pixels of an image."""
        return self.lower.shape[1] - 1


def rank_pixels(values: Tensor) -> Ranking:
    """Ranks the pixels of maps (B, H, W): O(P log P) time, O(P) memory per map."""
    size, height, width = values.shape
    n_pixels = height * width
    ordered, order = values.reshape(size, n_pixels).sort(dim=1, descending=True)
    counts = torch.arange(n_pixels + 1, device=values.device).expand(size, -1)
    ranks = torch.empty_like(order).scatter_(1, order, counts[:, :-1])
    is_end = torch.ones_like(counts, dtype=torch.bool)
    is_end[:, 1:-1] = ordered[:, 1:] != ordered[:, :-1]
    lower = torch.where(is_end, counts, 0).cummax(dim=1).values
    upper = torch.where(is_end, counts, n_pixels).flip(1).cummin(dim=1).values.flip(1)
    return Ranking(ranks.int().view(size, 1, height, width), lower, upper)


def step_counts(n_pixels: int, n_steps: int, device: torch.device) -> Tensor:
    """Returns the n_steps + 1 pixel counts nearest to equal steps from 0 to P."""
    steps = torch.arange(n_steps + 1, device=device)
    return (2 * n_pixels * steps + n_steps) // (2 * n_steps)


class RankedPath:
    """Scores positions on the path from baseline to image to baseline.

    Args:
        images (Tensor): The images, (B, C, H, W).
        ranking (Ranking): The order of their pixels.
        score (Callable): From images and the number of copies of the batch to scores.
        insertion_baseline (Tensor): What the pixels are inserted into.
        deletion_baseline (Tensor, optional): What they are replaced by; needed for
            positions above P only. Default: None
        perturbations_per_eval (int): Images of each example per forward pass.
            Default: 32
        progress (str, optional): Name of a progress bar; None shows none.
            Default: None

    Attributes:
        full (Tensor): Scores of the images themselves, (B,).
        n_forward (int): Images scored so far per example, the full one included.
    """

    def __init__(
        self,
        images: Tensor,
        ranking: Ranking,
        score: Scorer,
        insertion_baseline: Tensor,
        deletion_baseline: Tensor | None = None,
        perturbations_per_eval: int = 32,
        progress: str | None = None,
    ) -> None:
        self.images = images
        self.ranking = ranking
        self.score = score
        self.insertion_baseline = insertion_baseline
        self.deletion_baseline = deletion_baseline
        self.perturbations_per_eval = perturbations_per_eval
        self.progress = progress
        self.full = at_least_float32(score(images, 1))
        self.n_forward = 1

    def scores(self, positions: Tensor) -> Tensor:
        """Scores whole positions (B, n), in ascending order or not, as (B, n).

        Every distinct position of an example is evaluated once; examples with fewer
        of them than others repeat their last one, as a batch goes through together.
        """
        ordered, order = positions.sort(dim=1)
        is_new = torch.ones_like(ordered, dtype=torch.bool)
        is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        is_full = ordered == self.ranking.n_pixels
        # Slot 0 holds the image itself, which is known; the others count upwards.
        slots = (is_new & ~is_full).cumsum(dim=1).masked_fill(is_full, 0)
        table = ordered[:, -1:].repeat(1, int(slots.max()) + 1)
        table.scatter_(1, slots, ordered)
        scores = torch.cat([self.full[:, None], self._evaluate(table[:, 1:])], dim=1)
        scores = scores.gather(1, slots)
        return torch.empty_like(scores).scatter_(1, order, scores)

    def interpolated(
        self, counts: Tensor, sides: tuple[bool, ...] = (False,)
    ) -> list[Tensor]:
        """Scores ``counts`` (n,) of top pixels under the tie rule, as (B, n) a side.

        A side is False for insertion (kept on the baseline), True for deletion.
        """
        lower, upper = self.ranking.lower[:, counts], self.ranking.upper[:, counts]
        shifts = [self.ranking.n_pixels * side for side in sides]
        ends = [end + shift for shift in shifts for end in (lower, upper)]
        scores = self.scores(torch.cat(ends, dim=1)).chunk(len(ends), dim=1)
        share = (counts - lower).double() / (upper - lower).clamp(min=1)
        share = share.to(self.full.dtype)
        return [
            torch.lerp(at_lower, at_upper, share)
            for at_lower, at_upper in zip(scores[::2], scores[1::2], strict=True)
        ]

    def _evaluate(self, table: Tensor) -> Tensor:
        """Scores every entry of ``table`` (B, K), a chunk of columns at a time."""
        size, n_positions = table.shape
        scores = self.full.new_empty(size, n_positions)
        chunk = self.perturbations_per_eval
        starts = range(0, n_positions, chunk)
        for start in _progress(starts, self.progress):
            positions = table[:, start : start + chunk]
            n_copies = positions.shape[1]
            images = self._images_at(positions.t())
            flat = images.reshape(n_copies * size, *self.images.shape[1:])
            chunk_scores = self.score(flat, n_copies).view(n_copies, size)
            scores[:, start : start + chunk] = chunk_scores.t()
        self.n_forward += n_positions
        return scores

    def _images_at(self, positions: Tensor) -> Tensor:
        """Builds the images at positions (n, B), as (n, B, C, H, W)."""
        ranks = self.ranking.ranks
        positions = positions.to(ranks.dtype)[:, :, None, None, None]
        images = torch.where(ranks < positions, self.images, self.insertion_baseline)
        if self.deletion_baseline is None:
            return images
        removed = ranks + self.ranking.n_pixels < positions
        return torch.where(removed, self.deletion_baseline, images)


def at_least_float32(scores: Tensor) -> Tensor:
    """Half-precision scores are exact in float32; their curves and areas need it."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _progress(starts: range, name: str | None) -> range:
    if name is None:
        return starts
    from tqdm.auto import tqdm

    bar: range = tqdm(starts, desc=name)
    return bar
