"""Data-set questions of rows and labels in any dress: the plain answer, or words."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from captum_margin.influence import (
    AdversarialStatistics,
    DecisionBoundary,
    LabelNoise,
    Prototypes,
    near_duplicates,
)
from tests.any_input.disguises import SAME, SPOILT, frames
from tests.any_input.oracle import answer_of, assert_alike, examples


def rows(seed, n=24, width=4):
    """Two groups of rows of whole numbers, and labels with one that is wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = torch.randint(0, 40, (n, width), generator=generator) + 50 * labels[:, None]
    labels[3] = 0
    return x.float(), labels


def asked(question):
    """Its scores of rows and labels; neighbours by distance, whatever its default."""
    return lambda x, labels: question.from_features(
        x, labels, k=5, metric="euclidean"
    ).self_influence()


def of_new_samples(x, labels):
    """Scores of others by what the rows and labels are."""
    plain, known = rows(7)
    noise = LabelNoise.from_features(plain, known, k=5, metric="euclidean")
    return noise.self_influence((x, labels))


def duplicates(x, labels):
    return near_duplicates(x).group


QUESTIONS = {
    "LabelNoise": asked(LabelNoise),
    "Prototypes": asked(Prototypes),
    "DecisionBoundary": asked(DecisionBoundary),
    "AdversarialStatistics": asked(AdversarialStatistics),
    "another data set": of_new_samples,
}
NAMES = "features|references|labels of|samples"
questions = st.sampled_from(sorted(QUESTIONS))
seeds = st.integers(0, 3)


@given(questions, st.sampled_from(sorted(SAME)), seeds)
@examples(60)
def test_features_in_any_dress(question, dress, seed):
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    found = answer_of(lambda: ask(SAME[dress](x), labels), NAMES)
    if found is not None:
        # Weights of edges have the dtype of the features.
        loose = 0.01 if "float16" in dress else 1e-3
        assert_alike(found, ask(x, labels), loose)


@given(questions, st.sampled_from(sorted(SPOILT)), seeds)
@examples(40)
def test_spoilt_features_are_refused(question, spoil, seed):
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    assert answer_of(lambda: ask(SPOILT[spoil](x), labels), NAMES) is None


@given(questions, st.integers(0, 5), seeds)
@examples(20)
def test_frames(question, number, seed):
    pytest.importorskip("pandas")
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    frame = sorted(frames(x).items())[number][1]
    found = answer_of(lambda: ask(frame, labels), NAMES, refusable=False)
    assert_alike(found, ask(x, labels), 1e-3)


# What is exact in the features' own dtype: the answer does not depend on the unit.
@given(questions, st.integers(-1000, 1000), seeds)
@example("LabelNoise", 664, 0)  # 1e200
@example("LabelNoise", -664, 0)
@examples(40)
def test_the_unit_of_the_features_does_not_matter(question, exponent, seed):
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    x = x.double()
    scaled = x * 2.0**exponent
    found = answer_of(lambda: ask(scaled, labels), NAMES)
    if found is not None:
        assert_alike(found, ask(x, labels), 1e-3)


@given(questions, st.sampled_from([1e3, 1e6, 1e9, -1e9, 1e12, 1e15]), seeds)
@examples(30)
def test_a_common_offset_does_not_matter(question, offset, seed):
    x, labels = rows(seed)
    x = x.double()
    ask = QUESTIONS[question]
    found = answer_of(lambda: ask(x + offset, labels), NAMES)
    if found is not None:
        assert_alike(found, ask(x, labels), 1e-3)


def objects(labels, first):
    array = np.empty(len(labels), dtype=object)
    array[:] = list(labels)
    array[0] = first
    return array


LABELS = {
    **{f"tensor {d}": (lambda y, d=d: y.to(d)) for d in (
        torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16, torch.float32,
        torch.float64, torch.float16, torch.bfloat16, torch.bool,
    )},
    **{f"array {d}": (lambda y, d=d: y.numpy().astype(d)) for d in (
        "int8", "uint8", ">i4", "uint64", "float64", "bool", "object", "U4", "S4",
        "longdouble",
    )},
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "range-like": lambda y: [np.int64(v) for v in y],
    "list of 0-d tensors": list,
    "words": lambda y: [("no", "yes")[v] for v in y],
    "array of words": lambda y: np.array(["no", "yes"])[y.numpy()],
    "bools": lambda y: [bool(v) for v in y],
    "column": lambda y: y[:, None],
    "row": lambda y: y[None],
    "every other": lambda y: y.repeat_interleave(2)[::2],
    "negative": lambda y: y - 5,
    "large": lambda y: y + 2**40,
    "not masked": lambda y: np.ma.masked_array(y.numpy(), mask=False),
    "dict": lambda y: dict(enumerate(y.tolist())),
    "set": lambda y: set(y.tolist()),
    "generator": lambda y: (v for v in y.tolist()),
    "a string": lambda y: "labels.npy",
    "text": lambda y: "".join(map(str, y.tolist())),
    "complex": lambda y: y.to(torch.complex64),
    "gradient": lambda y: y.double().requires_grad_(),
    "sparse": lambda y: y.to_sparse(),
}  # fmt: skip
MISSING = {
    "None": lambda y: objects(y.tolist(), None),
    "None in a list": lambda y: [None, *y.tolist()[1:]],
    "None among words": lambda y: [None, *("no" if v else "yes" for v in y[1:])],
    "NaN": lambda y: y.double().index_fill(0, torch.tensor([2]), float("nan")),
    "NaN in a list": lambda y: [float("nan"), *y.tolist()[1:]],
    "NaN among words": lambda y: [float("nan"), *("no" if v else "yes" for v in y[1:])],
    "NumPy's NaN among words": lambda y: objects(["a"] * len(y), np.float32("nan")),
    "infinity": lambda y: y.double().index_fill(0, torch.tensor([2]), float("inf")),
    "infinity in a list": lambda y: [float("inf"), *y.tolist()[1:]],
    "NaT": lambda y: objects(y.tolist(), np.datetime64("NaT")),
    "NaT of times": lambda y: np.array(
        ["NaT", *["2020-01-01"] * (len(y) - 1)], "M8[D]"
    ),
    "a mask": lambda y: np.ma.masked_array(y.numpy(), mask=[True] + [False] * 23),
    "mixed": lambda y: ["no", *y.tolist()[1:]],
    "fractions": lambda y: y.double() / 2 + 0.25 * (torch.arange(len(y)) == 5),
    "too few": lambda y: y[:-1],
    "too many": lambda y: torch.cat([y, y[:1]]),
    "two columns": lambda y: torch.stack([y, y], dim=1),
    "none": lambda y: y[:0],
    "nested": lambda y: [[v, v] for v in y.tolist()[:-1]] + [[0]],
}


@given(questions, st.sampled_from(sorted(LABELS)), seeds)
@examples(60)
def test_labels_in_any_dress(question, dress, seed):
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    found = answer_of(lambda: ask(x, LABELS[dress](labels)), "label|class")
    if found is not None:
        assert_alike(found, ask(x, labels), 1e-5)


@given(questions, st.sampled_from(sorted(MISSING)), seeds)
@examples(40)
def test_labels_that_say_nothing_are_refused(question, spoil, seed):
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    assert answer_of(lambda: ask(x, MISSING[spoil](labels)), "label|class") is None


def pandas_labels(y):
    pandas = pytest.importorskip("pandas")
    words = pandas.Series([("no", "yes")[v] for v in y])
    return {
        "series": pandas.Series(y.numpy()),
        "Int64": pandas.Series(y.numpy(), dtype="Int64"),
        "boolean": pandas.Series(y.numpy().astype(bool), dtype="boolean"),
        "category": words.astype("category"),
        "string": words.astype("string"),
        "object": words.astype(object),
        "index": pandas.Series(y.numpy(), index=np.arange(len(y))[::-1] + 3),
        "an index": pandas.Index(y.numpy()),
        "a frame": pandas.DataFrame({"label": y.numpy()}),
    }


@given(questions, st.integers(0, 8), st.booleans(), seeds)
@examples(40)
def test_labels_of_pandas(question, number, missing, seed):
    pandas = pytest.importorskip("pandas")
    x, labels = rows(seed)
    ask = QUESTIONS[question]
    name, series = sorted(pandas_labels(labels).items())[number]
    if missing and name not in ("an index", "a frame", "series", "index"):
        series = series.copy()
        series.iloc[2] = pandas.NA
        assert answer_of(lambda: ask(x, series), "label|class") is None
        return
    found = answer_of(
        lambda: ask(x, series), "label|class", refusable=name == "a frame"
    )
    if found is not None:
        assert_alike(found, ask(x, labels), 1e-5)
