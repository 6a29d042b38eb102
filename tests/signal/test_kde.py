"""Kernel density against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_margin.signal import kernel_density, rank
from tests.reference import mmd_reference as reference


def sample(seed, n=9, m=15, width=3, classes=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    r = torch.randn(m, width, generator=generator, dtype=torch.float64)
    c = torch.randint(classes, (n,), generator=generator)
    return x, r, c, torch.randint(classes - 1, (m,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0.02, 2.0), by_class=st.booleans())
def test_equals_its_definition(seed, gamma, by_class):
    x, r, c, rc = sample(seed)  # class 3 has no reference
    classes = (c, rc) if by_class else ()
    got = kernel_density(x, r, *classes, gamma=gamma, block_size=2)
    expected = reference.kernel_density(
        x.numpy(), r.numpy(), gamma, *(labels.numpy() for labels in classes)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("far", [1e6, 1e9])
def test_a_reference_far_off_takes_no_digits_from_the_others(far):
    x, r, _, _ = sample(2)
    off = torch.cat([r, torch.full_like(r[:1], far)])
    expected = reference.kernel_density(x.numpy(), off.numpy(), 0.5)
    found = kernel_density(x.float(), off.float(), gamma=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_default_gamma_comes_from_the_references():
    x, r, _, _ = sample(0)
    gamma = reference.default_gamma(r.numpy())
    expected = reference.kernel_density(x.numpy(), r.numpy(), gamma)
    np.testing.assert_allclose(kernel_density(x, r), expected, rtol=1e-10)
    assert kernel_density(r[:1], r[:1].expand(3, -1)).tolist() == [1.0]


def test_blocks_order_and_names_of_classes_do_not_matter():
    x, r, c, rc = sample(1, n=50, m=80)
    expected = kernel_density(x, r, c, rc)
    for block_size in (1, 7, 1000):
        got = kernel_density(x, r, c, rc, block_size=block_size)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randperm(k, generator=generator) for k in (50, 80))
    got = kernel_density(x[mine], r[theirs], 7 - c[mine], 7 - rc[theirs])
    torch.testing.assert_close(got, expected[mine], rtol=1e-12, atol=0)


def test_planted_samples_of_the_wrong_class_are_least_dense():
    generator = torch.Generator().manual_seed(0)
    rc = torch.arange(2).repeat_interleave(60)
    r = torch.randn(120, 4, generator=generator) + 4 * rc[:, None]
    x = torch.randn(20, 4, generator=generator)
    classes = torch.zeros(20, dtype=torch.long)
    classes[[3, 11]] = 1  # said to be of the other class
    f = kernel_density(x, r, classes, rc)
    assert set(rank(f, descending=False)[:2].tolist()) == {3, 11}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_dtype_is_kept(dtype):
    x, r, c, rc = sample(2)
    x, r = (x * 3).to(dtype), (r * 3).to(dtype)
    got = kernel_density(x, r, c, rc)
    assert got.dtype == (dtype if dtype.is_floating_point else torch.float32)
    expected = kernel_density(x.double(), r.double(), c, rc)
    loose = 0.01 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(got.double(), expected, rtol=loose, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    given_ = sample(3)
    got = kernel_density(*(tensor.cuda() for tensor in given_))
    torch.testing.assert_close(got.cpu(), kernel_density(*given_), rtol=1e-10, atol=0)


def test_bad_arguments():
    x, r, c, rc = sample(4)
    with pytest.raises(ValueError, match=r"\(M, 3\) \(got \(15, 2\)\)"):
        kernel_density(x, r[:, :2])
    with pytest.raises(ValueError, match="finite references"):
        kernel_density(x, r / 0)
    with pytest.raises(ValueError, match="together"):
        kernel_density(x, r, c)
    with pytest.raises(ValueError, match=r"reference_classes of shape \(15,\)"):
        kernel_density(x, r, c, rc[:3])
    with pytest.raises(TypeError, match="integer labels"):
        kernel_density(x, r, c.float(), rc)
    with pytest.raises(ValueError, match="gamma"):
        kernel_density(x, r, gamma=-1.0)
    with pytest.raises(ValueError, match="block_size"):
        kernel_density(x, r, block_size=0)
