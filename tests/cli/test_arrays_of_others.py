"""NPZ files as people write them; what is wrong with one is told in our words."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from captum_margin.cli.audit.arrays import read_npz
from captum_margin.cli.audit.probabilities import read_probabilities
from captum_margin.cli.output import CommandError

X = np.arange(18.0).reshape(6, 3)
Y = X + 1


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path.read_bytes()


def with_flags(contents, local, central, value):
    """The ZIP with a byte of each entry's two headers set."""
    changed = bytearray(contents)
    for mark, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = -1
        while (at := changed.find(mark, at + 1)) >= 0:
            changed[at + place] = value
    return bytes(changed)


def huge():
    header, contents = io.BytesIO(), io.BytesIO()
    form = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 10)}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(contents, "w") as file:
        for name in ("features", "pred_probs"):
            file.writestr(f"{name}.npy", header.getvalue() + bytes(80))
    return contents.getvalue()


def bad_files(path):
    whole = saved(path, features=X, pred_probs=X)
    objects = np.array([[{}] * 3] * 6)
    return {
        "text": (b"hello", "expected an NPZ"),
        "nothing": (b"", "expected an NPZ"),
        "a pickle": (pickle.dumps({"features": X}), "expected an NPZ"),
        "broken off": (whole[:300], "expected an NPZ"),
        "objects": (
            saved(path, features=objects, pred_probs=objects),
            "holds objects; save it without",
        ),
        "packed strangely": (with_flags(whole, 8, 10, 99), "packed in an unknown way"),
        "a password": (with_flags(whole, 6, 8, 1), "packed in an unknown way"),
        "a bit that fell over": (whole.replace(X.tobytes(), Y.tobytes()), "is damaged"),
        "no room": (huge(), "larger than the memory"),
    }


@pytest.mark.parametrize(
    "read", [lambda path: read_npz(path, None), read_probabilities]
)
def test_files_that_are_no_npz_are_told_in_our_words(read, tmp_path):
    path = tmp_path / "data.npz"
    for contents, words in bad_files(path).values():
        path.write_bytes(contents)
        with pytest.raises(CommandError, match=words) as error:
            read(path)
        assert "pickle" not in str(error.value) and "unsafe" not in str(error.value)


def test_text_of_bytes_is_text(tmp_path):
    given = {
        "features": X,
        "labels": np.array([b"cat", "dög".encode()] * 3),
        "names": np.array([b"n%d" % i for i in range(6)]),
        "splits": np.array([b"train", b"test"] * 3),
    }
    saved(tmp_path / "data.npz", **given)
    found = read_npz(tmp_path / "data.npz", None)
    assert found.classes == ("cat", "dög") and found.labels.tolist() == [0, 1] * 3
    assert found.names == [f"n{i}" for i in range(6)]
    assert found.splits == ["train", "test"] * 3


@pytest.mark.parametrize("name", ["names", "splits"])
@pytest.mark.parametrize("value", [np.array("a"), np.array([["a", "b"]] * 6)])
def test_names_are_one_a_sample(name, value, tmp_path):
    saved(tmp_path / "data.npz", features=X, **{name: value})
    with pytest.raises(
        CommandError, match=rf"expected 6 {name}, one per sample .*shape"
    ):
        read_npz(tmp_path / "data.npz", None)


def test_class_names_of_probabilities_are_one_row(tmp_path):
    saved(tmp_path / "p.npz", pred_probs=X, classes=np.array("a"))
    with pytest.raises(CommandError, match="expected classes of one dimension"):
        read_probabilities(tmp_path / "p.npz")
