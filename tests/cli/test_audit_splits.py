"""Folders of ``audit``: which are classes, which are splits, which are left out."""

import pytest

from captum_margin.cli.audit.folder import find_images
from captum_margin.cli.output import CommandError


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of files; their contents are not read."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return find_images(tmp_path)

    return make


def told(images):
    """Name, class and split of each image."""
    splits = images.splits or [None] * len(images.paths)
    labels = images.labels or [None] * len(images.paths)
    names = [images.name(path) for path in images.paths]
    return list(zip(names, labels, splits, strict=True))


def test_train_and_val_with_class_folders_are_splits(folder):
    images = folder(
        "Train/cat/b.png", "Train/cat/a.jpg", "Train/dog/deep/c.png", "VAL/dog/a.png"
    )
    assert told(images) == [
        ("Train/cat/a.jpg", "cat", "Train"),
        ("Train/cat/b.png", "cat", "Train"),
        ("Train/dog/deep/c.png", "dog", "Train"),
        ("VAL/dog/a.png", "dog", "VAL"),
    ]
    assert images.notes == [
        "read as splits, not as classes: Train (3), VAL (1)",
        "1 class is not in every split, such as cat (only in Train)",
    ]


NAMES = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_split_is_known(folder, name):
    images = folder(f"{name}/cat/a.png", f"{name}/dog/a.png")
    assert images.splits == [name, name] and images.labels == ["cat", "dog"]


def test_a_class_named_test_beside_others_is_a_class(folder):
    images = folder("test/deep/a.png", "train/deep/b.png", "plane/a.png")
    assert images.splits == [] and images.labels == ["plane", "test", "train"]
    assert images.notes == []


def test_train_and_test_that_hold_images_alone_are_classes(folder):
    images = folder("train/a.png", "test/b.png")
    assert told(images) == [
        ("test/b.png", "test", None),
        ("train/a.png", "train", None),
    ]


def test_images_of_a_split_without_class_folder_are_left_out(folder):
    """As those of competitions, whose test set has no labels."""
    images = folder(
        "train/cat/a.png", "train/dog/a.png", "test/1.png", "test/2.png", "x.png"
    )
    assert told(images) == [
        ("train/cat/a.png", "cat", "train"),
        ("train/dog/a.png", "dog", "train"),
    ]
    assert images.notes == [
        "read as splits, not as classes: train (2)",
        "3 beside the class folders left out, such as x.png",
    ]


def test_one_class_in_all_splits_is_told(folder):
    images = folder("train/images/a.png", "val/images/b.png")
    assert images.splits == ["train", "val"]
    assert "one class only (images)" in images.notes[1]


def test_other_folders_without_images_do_not_count(folder):
    images = folder("train/cat/a.png", "val/cat/b.png", "logs/run.txt", ".git/x.png")
    assert images.splits == ["train", "val"]


def test_hidden_folders_of_images_are_named(folder):
    images = folder(
        *("up/a.png", "down/a.png", "__background__/a.png", "__background__/b/c.JPG"),
        *("up/.old/a.png", "__MACOSX/._a.png", ".cache/list.txt", "__pycache__/x.pyc"),
    )
    assert told(images) == [("down/a.png", "down", None), ("up/a.png", "up", None)]
    assert images.notes == [
        "folders of images left out, for their names begin with . or __: "
        "__background__ (2), up/.old (1); rename those that are classes"
    ]


def test_of_very_many_hidden_folders_the_first_are_named(folder):
    hidden = [f".{i}/a.png" for i in range(7)]
    notes = folder("up/a.png", "down/a.png", *hidden).notes
    assert ".4 (1) and 2 more; rename" in notes[0] and ".5" not in notes[0]


def test_only_hidden_folders(folder):
    with pytest.raises(CommandError, match=r"no images in .*__a \(1\); rename"):
        folder("__a/a.png")
