"""Whatever is given: the answer of the plain tensor, or an error that names it.

``CAPTUM_MARGIN_EXAMPLES=10000`` looks further.
"""

import os
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from captum_margin.influence import DecisionBoundary, LabelNoise, Prototypes

EXAMPLES = int(os.environ.get("CAPTUM_MARGIN_EXAMPLES", "300"))


def frame(x):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])


CONTAINERS = {
    "array": np.asarray,
    "fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f8"),
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "long": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "rows": lambda x: [torch.from_numpy(row) for row in x.copy()],
    "masked": np.ma.MaskedArray,
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "with a gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "transposed": lambda x: torch.from_numpy(x.T.copy()).T,
    "sparse": scipy.sparse.csr_matrix,
    "sparse array": scipy.sparse.coo_array,
    "sparse tensor": lambda x: torch.from_numpy(x.copy()).to_sparse(),
    "frame": frame,
    "nullable frame": lambda x: frame(x).convert_dtypes(),
    "frame of objects": lambda x: frame(x).astype(object),
}
LABELS = {
    "tensor": lambda y: torch.from_numpy(y.copy()),
    "bfloat16": lambda y: torch.from_numpy(y.copy()).bfloat16(),
    "floats": lambda y: y.astype(float),
    "list": lambda y: y.tolist(),
    "tensors": lambda y: list(torch.from_numpy(y.copy())),
    "scalars": list,
    "texts": lambda y: [f"class {c}" for c in y],
    "array of text": lambda y: np.array([f"class {c}" for c in y]),
    "objects": lambda y: np.array([f"class {c}" for c in y], dtype=object),
    "masked": np.ma.MaskedArray,
    "frame's column": lambda y: frame(y[:, None])["c0"].astype("Int64"),
    "categories": lambda y: frame(y[:, None])["c0"].astype("category"),
}
DAMAGE = (float("nan"), float("inf"), None, "?")


@st.composite
def cases(draw):
    n, f = draw(st.integers(6, 24)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = rng.integers(0, 3, n)
    labels[:3] = 0, 1, 2
    x = rng.integers(-9, 10, (n, f)) + 6.0 * labels[:, None]
    if draw(st.booleans()):
        x += rng.normal(size=x.shape)
    return x, labels


def scores(question, features, labels, metric):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = question.from_features(features, labels, metric=metric, k=4)
        return found.self_influence()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    case=cases(),
    container=st.sampled_from(sorted(CONTAINERS)),
    kind=st.sampled_from(sorted(LABELS)),
    question=st.sampled_from([LabelNoise, DecisionBoundary, Prototypes]),
    metric=st.sampled_from(["euclidean", "cosine"]),
    exponent=st.sampled_from([0, 0, 0, 20, -20, 90, -90, 700, -700, 1000]),
)
def test_any_container_and_size(case, container, kind, question, metric, exponent):
    x, labels = case
    # Directions that are the same but for rounding differ in it where rows are sparse.
    apart = x.shape[1] > 1 and bool((x != np.round(x)).any())
    assume("sparse" not in container or metric == "euclidean" or apart)
    expected = scores(question, torch.from_numpy(x), labels, metric)
    given_features = CONTAINERS[container](x * 2.0**exponent)
    given_labels = LABELS[kind](labels)
    try:
        found = scores(question, given_features, given_labels, metric)
    except ValueError as error:
        # The kernel of Prototypes is of distances, whatever the metric of the graph.
        assert abs(exponent) >= 700 and "features of squares" in str(error)
        assert metric == "euclidean" or question is Prototypes
        return
    # Of sparse rows distances are in single precision, of whole numbers the scores.
    single = "sparse" in container or found.dtype == torch.float32
    loose = 1e-3 if single or abs(exponent) == 90 else 1e-8
    torch.testing.assert_close(found.double(), expected, rtol=loose, atol=loose * 1e-1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    case=cases(),
    container=st.sampled_from(["lists", "objects", "frame of objects", "rows"]),
    damage=st.sampled_from(DAMAGE),
    of_labels=st.booleans(),
    place=st.integers(0, 5),
    question=st.sampled_from([LabelNoise, DecisionBoundary]),
)
def test_any_damage_is_named(case, container, damage, of_labels, place, question):
    x, labels = case
    values = [list(row) for row in x.tolist()]
    classes = labels.tolist()
    if of_labels:
        classes[place] = damage
    else:
        values[place][0] = damage
    features = {
        "lists": lambda v: v,
        "objects": lambda v: np.array(v, dtype=object),
        "frame of objects": lambda v: frame(np.array(v, dtype=object)),
        "rows": lambda v: [np.array(row, dtype=object) for row in v],
    }[container](values)
    with pytest.raises((ValueError, TypeError)) as raised:
        scores(question, features, classes, "euclidean")
    told = str(raised.value)
    assert ("label" if of_labels else "features") in told
    if of_labels and (damage is None or damage != damage):
        assert f"the first at {place}" in told
