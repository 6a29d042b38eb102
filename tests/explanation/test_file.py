"""The file of an explanation: every bit, no pickle, and what is refused."""

import dataclasses
import io
import json
import pickle
import re
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from captum_margin import Explanation, explain
from tests.helpers import models
from tests.helpers.records import assert_same, saved


@pytest.fixture
def x():
    return models.images()


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (0, 3), ()])
def test_every_bit_of_every_dtype(dtype, shape, tmp_path):
    generator = torch.Generator().manual_seed(0)
    n_bytes = dtype.itemsize * int(np.prod(shape))
    if dtype == torch.bool:
        values = torch.randint(2, shape, generator=generator).bool()
    else:  # every pattern of bits, NaN with its payload too
        raw = torch.randint(256, (n_bytes,), dtype=torch.uint8, generator=generator)
        values = raw.view(dtype).view(shape)
    found = Explanation(values, None, "Method", inputs=(values, values))
    again = saved(found, tmp_path)
    assert again.attributions.shape == shape and again.target is None
    assert_same(again, found)


VALUES = {
    "None": None,
    "int": 3,
    "tuple": (1, 2),
    "list": [1, 2],
    "list of tuples": [(0, 1), (2, 0)],
    "tensor": torch.tensor([4, 5]),
    "floats": [0.1, float("inf"), float("-inf"), float("nan"), 1e-300],
    "nested": {"a": [None, True, "ü", {"b": (torch.ones(2), [])}], "c": {}},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_targets_and_settings_keep_their_types(value, tmp_path):
    found = Explanation(torch.zeros(2), value, "Method", {"value": value}, {"v": value})
    assert_same(saved(found, tmp_path), found)


def test_layouts_and_gradients_are_no_matter(tmp_path):
    values = torch.randn(2, 3, 4, 5, requires_grad=True)
    last = values.contiguous(memory_format=torch.channels_last)[:, :2]
    again = saved(Explanation(last, 1, "Method"), tmp_path)
    assert (
        torch.equal(again.attributions, last) and not again.attributions.requires_grad
    )
    conjugate = torch.randn(3, dtype=torch.complex64).conj()
    again = saved(Explanation(conjugate, 1, "Method"), tmp_path)
    assert torch.equal(again.attributions, conjugate)


def test_the_file_is_open_to_other_tools(x, tmp_path):
    path = tmp_path / "one.npz"
    Explanation(x, (1, 2), "Method", {"n": 3}).save(str(path))
    with np.load(path, allow_pickle=False) as archive:
        assert np.array_equal(archive["attributions"], x.numpy())
        head = json.loads(archive["record.json"])
    assert head["kind"] == "captum_margin.Explanation" and head["version"] == 1
    assert head["contents"]["settings"] == {"n": 3}


def test_there_is_no_pickle(x, tmp_path, monkeypatch):
    model = models.conv()

    def refuse(*args, **kwargs):
        raise AssertionError("pickle is used")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    found = explain(LayerGradCam(model, model[2]), x, target=[(1,), (2,)])
    assert_same(saved(found, tmp_path), found)


class Trap:
    """Unpickling it would be seen."""

    sprung: ClassVar[list[int]] = []

    def __reduce__(self):
        return Trap.sprung.append, (1,)


def rewritten(path, **changes):
    """The same file with other members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = {name.replace("_", ".", 1): part for name, part in changes.items()}
    members |= changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in members.items():
            if part is not None:
                archive.writestr(name, part)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def head(**changes):
    contents = {entry.name: None for entry in dataclasses.fields(Explanation)} | {
        "attributions": {"$tensor": "attributions.npy", "dtype": "float32"}
    }
    kind = "captum_margin.Explanation"
    return json.dumps({"kind": kind, "version": 1, "contents": contents} | changes)


TAMPERED = {
    "a pickle": ({"attributions_npy": npy(np.array([Trap()]))}, "[Oo]bject arrays"),
    "another type": ({"attributions_npy": npy(np.zeros(3))}, "expected float32"),
    "half an array": ({"attributions_npy": npy(np.zeros(3, "f4"))[:-2]}, "cannot read"),
    "no array": ({"attributions_npy": None}, "no item named"),
    "text": ({"record_json": "{"}, "cannot read"),
    "no text": ({"record_json": None}, "no item named 'record.json'"),
    "a list": ({"record_json": "[]"}, "holds no captum_margin.Explanation"),
    "another kind": ({"record_json": head(kind="x")}, "holds no captum_margin"),
    "a later version": ({"record_json": head(version=2)}, "of version 2 and this re"),
    "no contents": ({"record_json": head(contents=[])}, "holds no captum_margin"),
    "few contents": ({"record_json": head(contents={})}, "expected the entries"),
    "a type of none": (
        {"record_json": head().replace("float32", "nn")}, "no tensor has the type 'nn'"
    ),
    "a member elsewhere": (
        {"record_json": head().replace("attributions.npy", "../x")}, "no item named"
    ),
    "no maps": ({"record_json": re.sub(r"{[^{]+tensor[^}]+}", "3", head())}, "entries"),
}  # fmt: skip


@pytest.mark.parametrize("changes, match", TAMPERED.values(), ids=TAMPERED.keys())
def test_tampered_files(changes, match, tmp_path):
    path = tmp_path / "one.npz"
    Explanation(torch.zeros(3), None, "Method").save(path)
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=match) as caught:
        Explanation.load(path)
    assert str(path) in str(caught.value) and Trap.sprung == []


def test_damaged_files(x, tmp_path):
    path = tmp_path / "one.npz"
    Explanation(x, 1, "Method").save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"cannot read {path}"):
        Explanation.load(path)
    for place in range(200, len(whole) // 2, 997):  # one bit, somewhere in the data
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
        )
        with pytest.raises(ValueError, match=f"cannot read {path}"):
            Explanation.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"cannot read {path}"):
        Explanation.load(path)
    with pytest.raises(FileNotFoundError):
        Explanation.load(tmp_path / "none.npz")


def test_a_file_is_replaced_whole_or_not_at_all(x, tmp_path):
    path = tmp_path / "one.npz"
    first = Explanation(x, 1, "Method")
    first.save(path)
    for wrong, error in [
        (Explanation(x, object(), "Method"), TypeError),
        (Explanation(x.to_sparse(), 1, "Method"), ValueError),
    ]:
        with pytest.raises(error):
            wrong.save(path)
        assert_same(Explanation.load(path), first)
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]
    Explanation(x, 2, "Method").save(path)
    assert Explanation.load(path).target == 2


def test_places_that_take_no_file(x, tmp_path):
    found = Explanation(x, 1, "Method")
    (tmp_path / "a file").touch()
    for path in (tmp_path / "missing" / "one.npz", tmp_path / "a file" / "one.npz"):
        with pytest.raises(FileNotFoundError, match=r"no such folder; create it") as e:
            found.save(path)
        assert str(path.parent) in str(e.value) and ".part" not in str(e.value)
    with pytest.raises(IsADirectoryError, match="name one in it"):
        found.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
