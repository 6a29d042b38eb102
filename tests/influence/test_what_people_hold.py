"""Labels that are missing, numbers out of range, tables of several types."""

import datetime
import decimal
import enum
import importlib.util

import numpy as np
import pytest
import scipy.sparse
import torch

from captum_margin.influence import (
    DecisionBoundary,
    LabelNoise,
    Prototypes,
    near_duplicates,
)
from captum_margin.neighbors import find_neighbors, neighbors_among
from captum_margin.scale import build_shards, label_noise
from captum_margin.signal import Graph, kernel_density, knn_graph
from tests.influence.test_scores import blobs

NAN = float("nan")


def data():
    x, labels = blobs()
    labels = labels.clone()
    labels[[1, 25, 50]] = (labels[[1, 25, 50]] + 1) % 3
    return x, labels


def names(labels):
    return [f"class {c}" for c in labels.tolist()]


def with_missing(labels, what):
    values = names(labels)
    values[4] = values[9] = what
    return values


def missing_labels():
    pandas = pytest.importorskip("pandas")
    labels = data()[1]
    mask = np.zeros(len(labels), dtype=bool)
    mask[[4, 9]] = True
    dates = np.array(["2020-01-01"] * len(labels), dtype="M8[D]")
    dates[[4, 9]] = "NaT"
    floats = labels.double()
    floats[[4, 9]] = torch.nan
    yield from (
        with_missing(labels, none)
        for none in (NAN, None, np.nan, np.float32("nan"), pandas.NA, pandas.NaT)
    )
    yield np.array(with_missing(labels, NAN))  # NumPy made text of it
    yield np.array(with_missing(labels, NAN), dtype=object)
    yield tuple(with_missing(labels, NAN))
    yield pandas.Series(with_missing(labels, None))
    yield pandas.Series(with_missing(labels, None), dtype="category")
    yield pandas.Series(with_missing(labels, None)).astype(str).to_numpy()
    yield np.ma.MaskedArray(labels.numpy(), mask)
    yield np.ma.MaskedArray(np.array(names(labels)), mask)
    yield from (dates, floats, floats.bfloat16(), floats.tolist())
    pyarrow = pytest.importorskip("pyarrow")
    yield pyarrow.array(with_missing(labels, None))


@pytest.mark.parametrize("place", range(19))
def test_a_missing_label_is_refused_with_its_place(place, tmp_path):
    x, _ = data()
    given = list(missing_labels())
    assert len(given) == 19
    for ask in (
        lambda y: LabelNoise.from_features(x, y),
        lambda y: DecisionBoundary.from_features(x, y),
        lambda y: LabelNoise.from_graph(knn_graph(x, 5)[0], y),
        lambda y: label_noise(x.numpy(), y, tmp_path / "shards", k=5),
        lambda y: LabelNoise.from_probabilities(torch.full((60, 3), 1 / 3), y),
    ):
        with pytest.raises(ValueError, match=r"got 2 missing, the first at 4"):
            ask(given[place])


def test_labels_of_several_types_are_refused_and_numbers_beyond_counting():
    x, labels = data()
    for values, kinds in (
        (["a", 1, *names(labels)[2:]], "int, str"),
        ([True, *labels.tolist()[1:]], "bool, int"),
        ([1.5, "b", *names(labels)[2:]], "float, str"),
    ):
        with pytest.raises(TypeError, match=rf"one type \(got {kinds}\)"):
            LabelNoise.from_features(x, values)
    for value in (float("inf"), float("-inf"), 1e300, 2.0**60):
        wild = labels.double()
        wild[7] = value
        for given in (wild, wild.numpy(), wild.tolist()):
            with pytest.raises(ValueError, match=r"within ±2\*\*53 .* at 7"):
                LabelNoise.from_features(x, given)
    with pytest.raises(TypeError, match="complex"):
        LabelNoise.from_features(x, labels.to(torch.complex64))


def test_labels_in_any_container_are_the_same_labels():
    pyarrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    x, labels = data()
    expected = LabelNoise.from_features(x, labels).self_influence()
    for given in (
        list(labels),
        [int(c) if i % 2 else float(c) for i, c in enumerate(labels)],
        [np.int8(c) for c in labels],
        labels.bfloat16(),
        labels.to(torch.uint8),
        np.ma.MaskedArray(labels.numpy()),
        pandas.arrays.SparseArray(labels.numpy()),
        pyarrow.array(names(labels)),
        pyarrow.chunked_array([labels.numpy()]),
        np.array(names(labels), dtype=np.dtypes.StringDType()),
        np.array(names(labels), dtype=bytes),
    ):
        scores = LabelNoise.from_features(x, given).self_influence()
        assert torch.equal(scores, expected)


def test_labels_that_are_dates_or_other_objects_in_an_order():
    pandas = pytest.importorskip("pandas")
    x, labels = data()
    expected = LabelNoise.from_features(x, labels).self_influence()
    days = [datetime.date(2020, 1, 1 + c) for c in labels.tolist()]
    moments = np.array(days, dtype="M8[ns]")
    for given, classes in (
        (days, sorted({*days})),
        (np.array(days, dtype=object), sorted({*days})),
        (np.array(days, dtype="M8[D]"), sorted({*days})),
        ([pandas.Timestamp(day) for day in days], [*map(pandas.Timestamp, {*days})]),
        (moments, sorted({*moments})),
        ([decimal.Decimal(c) for c in labels.tolist()], [0, 1, 2]),
    ):
        question = LabelNoise.from_features(x, given)
        assert torch.equal(question.self_influence(), expected)
        assert question.result().classes == tuple(sorted(classes))
    with pytest.raises(TypeError, match=r"got E, which have no order.; pass them"):
        LabelNoise.from_features(x, [enum.Enum("E", "A B").A] * len(x))


def test_several_labels_a_sample_are_refused():
    pandas = pytest.importorskip("pandas")
    x, labels = data()
    pairs = [(c, "a") for c in labels.tolist()]
    objects = np.empty(len(x), dtype=object)
    objects[:] = pairs
    for given in (pandas.MultiIndex.from_tuples(pairs), objects):
        with pytest.raises(TypeError, match=r"one class per sample .got tuple"):
            LabelNoise.from_features(x, given)


def test_text_that_is_taken_for_a_gap_is_named():
    x, labels = data()
    for given in (["nan", *names(labels)[1:]], np.array(["nan", *names(labels)[1:]])):
        with pytest.raises(ValueError, match=r"the first at 0: 'nan'.*otherwise"):
            LabelNoise.from_features(x, given)
    given = ["Na" if c else "NA" for c in labels.tolist()]
    assert LabelNoise.from_features(x, given).result().classes == ("NA", "Na")


@pytest.mark.parametrize("question", [LabelNoise, DecisionBoundary])
@pytest.mark.parametrize("exponent", [600, 1000, -600, -1000, 70, -70])
def test_powers_of_two_change_no_bit_by_cosine(question, exponent):
    x, labels = data()
    expected = question.from_features(x, labels, metric="cosine").result()
    scaled = question.from_features(x * 2.0**exponent, labels, metric="cosine").result()
    assert torch.equal(scaled.scores, expected.scores)
    assert torch.equal(scaled.graph.edge_index, expected.graph.edge_index)
    sparse = scipy.sparse.csr_matrix((x * 2.0**exponent).numpy())
    same = scipy.sparse.csr_matrix(x.numpy())
    given, plain = (
        question.from_features(v, labels, metric="cosine").self_influence()
        for v in (sparse, same)
    )
    assert torch.equal(given, plain)


def test_each_row_may_have_a_length_of_its_own_by_cosine():
    x, labels = data()
    lengths = 10.0 ** torch.linspace(-250, 250, len(x), dtype=x.dtype)
    expected = LabelNoise.from_features(x, labels, metric="cosine").self_influence()
    scores = LabelNoise.from_features(
        x * lengths[:, None], labels, metric="cosine"
    ).self_influence()
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
    single = (x * lengths.pow(0.1)[:, None]).float()
    found, plain = (find_neighbors(v, 5, metric="cosine") for v in (single, x.float()))
    assert torch.equal(found.indices, plain.indices)


@pytest.mark.parametrize("factor", [1e200, 8e300, 1e-200, 2.0**600])
def test_squares_that_overflow_or_vanish_are_refused(factor):
    x, labels = data()
    wild = x * factor
    options = {"metric": "euclidean"}
    for ask in (
        lambda: LabelNoise.from_features(wild, labels, **options).result(),
        lambda: DecisionBoundary.from_features(wild, labels, **options).result(),
        lambda: Prototypes.from_features(wild).result(),
        lambda: near_duplicates(find_neighbors(wild, 10)),
        lambda: near_duplicates(find_neighbors(scipy.sparse.csr_array(wild), 10)),
        lambda: knn_graph(wild, 5),
        lambda: kernel_density(wild, wild),
    ):
        with pytest.raises(ValueError, match="squares"):
            ask()


@pytest.mark.parametrize("factor", [1e26, 1e-30])
def test_single_precision_reaches_as_far_as_double(factor):
    x, labels = data()
    wild = (x * factor).float()
    for ask in (
        lambda v: LabelNoise.from_features(v, labels, metric="euclidean"),
        lambda v: Prototypes.from_features(v, estimate="exact"),
    ):
        expected = ask(x).self_influence()
        scores = ask(wild).self_influence().double()
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


def test_stores_on_disk_refuse_what_single_precision_cannot_tell(tmp_path):
    x = data()[0].numpy()
    for wild, words in (
        (x * 1e200, "squares"),
        (x * 1e-30, "squares"),
        (x + 1e9, "more than their digits tell"),
    ):
        with pytest.raises(ValueError, match=words):
            build_shards(wild, tmp_path / "shards", 5)


@pytest.mark.parametrize("same", [1e5, 1.7e9, 123_456_789.123])
def test_a_column_that_is_the_same_everywhere_changes_nothing(same, tmp_path):
    x, labels = data()
    wide = torch.cat([x, torch.full_like(x[:, :1], same)], dim=1)
    plain, asked = (
        LabelNoise.from_features(v, labels, metric="euclidean") for v in (x, wide)
    )
    torch.testing.assert_close(asked.self_influence(), plain.self_influence())
    assert torch.equal(
        neighbors_among(wide, wide[:9], 5)[0], neighbors_among(x, x[:9], 5)[0]
    )
    for backend in ("exact", "faiss"):
        found, expected = (find_neighbors(v, 5, backend=backend) for v in (wide, x))
        assert torch.equal(found.indices, expected.indices)
    found, expected = (
        label_noise(v.numpy(), labels, tmp_path / name, k=5, metric="euclidean")
        for v, name in ((wide, "wide"), (x, "plain"))
    )
    assert torch.equal(torch.as_tensor(found.scores), torch.as_tensor(expected.scores))
    with pytest.raises(ValueError, match="more than their digits tell"):
        uneven = wide.clone()
        uneven[::2, -1] += same / 1e9
        find_neighbors(torch.cat([uneven, x + 1e9], dim=1), 5, backend="faiss")


@pytest.mark.parametrize("offset", [1e9, -1e9])
def test_a_common_offset_changes_nothing_or_is_refused(offset):
    x, labels = data()
    for question, options in (
        (LabelNoise, {"metric": "euclidean"}),
        (DecisionBoundary, {"metric": "euclidean"}),
        (Prototypes, {}),
    ):
        expected = question.from_features(x, labels, **options).self_influence()
        moved = question.from_features(x + offset, labels, **options)
        torch.testing.assert_close(
            moved.self_influence(), expected, rtol=1e-5, atol=1e-6
        )
        with pytest.raises(ValueError, match="more than their digits tell"):
            coarse = (100 * x + offset).float()  # in steps of 64
            question.from_features(coarse, labels, **options).result()
    with pytest.raises(ValueError, match="subtract what they have in common"):
        LabelNoise.from_features(x + offset, labels, metric="cosine").result()


def frames(pandas):
    x = data()[0][:, :2].numpy().round(2) * 100
    whole = x.round()
    flags = x[:, 0] > x[:, 0].mean()
    plain = np.column_stack([whole, x, flags])
    columns = {
        "a": whole[:, 0].astype(int),
        "b": whole[:, 1].astype(int),
        "c": x[:, 0],
        "d": x[:, 1],
        "e": flags,
    }
    frame = pandas.DataFrame(columns)
    nullable = frame.astype({"a": "Int64", "b": "Int32"})
    forms = [
        frame,  # float beside bool
        nullable,
        nullable.astype({"c": "Float64", "e": "boolean"}),
        frame.convert_dtypes(),
        frame.astype(object),
        frame.to_numpy(dtype=object),
        plain.tolist(),
        [torch.from_numpy(row) for row in plain],
        np.ma.MaskedArray(plain),
        plain.astype(">f8"),
        plain[::-1][::-1],
        plain.astype(np.longdouble),
        np.asfortranarray(plain),
    ]
    if importlib.util.find_spec("pyarrow"):  # of the peers extra, not of the tests'
        forms.append(frame.convert_dtypes(dtype_backend="pyarrow"))
    return plain, forms


def test_tables_of_several_types_of_numbers_are_numbers():
    pandas = pytest.importorskip("pandas")
    labels = data()[1]
    plain, given = frames(pandas)
    expected = LabelNoise.from_features(plain, labels).self_influence()
    found = find_neighbors(plain, 5)
    for table in given:
        scores = LabelNoise.from_features(table, labels).self_influence()
        assert torch.equal(scores, expected)
        assert torch.equal(find_neighbors(table, 5).indices, found.indices)


def test_a_table_with_text_or_gaps_says_where():
    pandas = pytest.importorskip("pandas")
    labels = data()[1]
    plain, (frame, nullable, *_) = frames(pandas)
    with pytest.raises(TypeError, match=r"'red' in column 'colour'.*encode text"):
        LabelNoise.from_features(frame.assign(colour="red"), labels)
    nullable.loc[6, "a"] = pandas.NA
    masked = np.ma.MaskedArray(plain, np.zeros(plain.shape, dtype=bool))
    masked[6, 0] = np.ma.masked
    for gap in (nullable, masked):
        with pytest.raises(ValueError, match="1 missing, the first in row 6, column 0"):
            LabelNoise.from_features(gap, labels)
        with pytest.raises(ValueError, match="1 missing, the first in row 6, column 0"):
            find_neighbors(gap, 5)
    with pytest.raises(ValueError, match="one length"):
        LabelNoise.from_features([[1.0, 2.0], [1.0]], [0, 1])


def test_tensors_of_any_layout_and_type_are_their_numbers():
    x, labels = data()
    whole = (100 * x).abs().round()
    expected = LabelNoise.from_features(whole, labels).self_influence()
    for given in (
        whole.to(torch.uint16),
        whole.to(torch.uint32),
        whole.to(torch.uint64),
        whole.to(torch.int16),
        whole.clone().requires_grad_(),
    ):
        scores = LabelNoise.from_features(given, labels).self_influence()
        torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)
        found = find_neighbors(given, 5)
        assert torch.equal(found.indices, find_neighbors(whole, 5).indices)
    for given in (whole.to_sparse(), whole.to_sparse_csr(), whole.to_sparse_csc()):
        scores = LabelNoise.from_features(given, labels).self_influence()
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    for wrong, words in (
        (whole.to(torch.complex64), "real numbers as features"),
        (whole.to("meta"), "with data as features"),
        (None, "numbers as features .got NoneType"),
        ({"a": whole}, "numbers as features .got dict"),
    ):
        with pytest.raises(TypeError, match=words):
            LabelNoise.from_features(wrong, labels)


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_functions_whose_squares_have_no_room_are_refused(factor):
    x, labels = data()
    noise = LabelNoise.from_features(x, labels, function=x[:, 0] * factor)
    with pytest.raises(ValueError, match="function of squares that neither"):
        noise.result()
    scale = 2.0**300 if factor > 1 else 2.0**-300
    plain, scaled = (
        LabelNoise.from_features(x, labels, function=x[:, 0] * s).self_influence()
        for s in (1, scale)
    )
    assert torch.equal(scaled / scale**2, plain)


def test_weights_whose_sums_overflow_are_refused():
    x, labels = data()
    edges, weights = knn_graph(x, 5)
    weights = weights.double()
    plain = LabelNoise.from_graph(Graph(edges, weights, len(x)), labels)
    large = LabelNoise.from_graph(Graph(edges, weights * 2.0**900, len(x)), labels)
    assert torch.equal(large.self_influence(), plain.self_influence())
    with pytest.raises(ValueError, match="weights of finite sums"):
        LabelNoise.from_graph(Graph(edges, weights * 1e308, len(x)), labels)
