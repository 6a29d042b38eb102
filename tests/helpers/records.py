"""Explanations compared bit by bit."""

import dataclasses

import torch

from captum_margin import Explanation


def same(a, b):
    """Whether two values are alike in type, and tensors in every bit."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and a.dtype == b.dtype
        assert a.shape == b.shape
        flat = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b) if t.numel()]
        return not flat or torch.equal(*flat)
    if isinstance(a, list | tuple):
        assert type(a) is type(b) and len(a) == len(b)
        return all(map(same, a, b))
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or a != a)


def assert_same(a, b):
    for entry in dataclasses.fields(Explanation):
        assert same(getattr(a, entry.name), getattr(b, entry.name)), entry.name


def saved(explanation, tmp_path):
    explanation.save(tmp_path / "one.npz")
    return Explanation.load(tmp_path / "one.npz")
