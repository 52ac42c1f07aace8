"""What is validated or tested on is not trained on: copies are refused, what looks like one is named."""

from __future__ import annotations

import pickle
import shutil

import cv2
import numpy as np
import pytest

from distill.config import Config, DataConfig
from distill.data import SAMPLE_ROOT, disjoint
from distill.data.annotations import read_set
from distill.data.disjoint import assert_disjoint, near_copies
from distill.data.folders import resolve
from distill.errors import UserError

SAMPLE = {name: SAMPLE_ROOT / f"synthetics_{name}" for name in ("train", "val", "test")}


def add_to(folder, name: str, data: bytes, label: np.ndarray) -> None:
    """One more image, with a label of its own, in the challenge's layout."""
    names, labels = pickle.loads((folder / "annot.pkl").read_bytes())
    (folder / name).write_bytes(data)
    (folder / "annot.pkl").write_bytes(pickle.dumps(([*names, name], [*labels, label.tolist()])))


def test_a_shared_folder_label_or_file_is_refused_by_name(tiny_root):
    train, val = read_set(tiny_root / "synthetics_train"), read_set(tiny_root / "synthetics_val")
    assert_disjoint(train, val)
    with pytest.raises(UserError, match="synthetics_train"):
        assert_disjoint(train, train.subset([0]))
    copied = tiny_root / "renamed"
    copied.mkdir()
    shutil.copy(tiny_root / "synthetics_train" / train.names[5], copied / "other.jpg")
    for shift, what in ((0, "label"), (0.5, "content")):
        (copied / "annot.pkl").write_bytes(pickle.dumps((["other.jpg"], (train.landmarks[5:6] + shift).tolist())))
        with pytest.raises(UserError, match=f"{train.names[5]}.*other.jpg.* {what}"):
            assert_disjoint(train, read_set(copied))


def test_a_training_on_a_test_image_is_refused(tiny_root):
    from distill.training.job import read_sets

    config = Config(data=DataConfig(root=str(tiny_root)))
    assert [len(one) for one in read_sets(config, resolve(config.data))] == [24, 8, 4]
    test = next((tiny_root / "synthetics_test").glob("*.jpg"))
    label = read_set(tiny_root / "synthetics_val").landmarks[0] + 0.25
    add_to(tiny_root / "synthetics_train", "mine.jpg", test.read_bytes(), label)
    with pytest.raises(UserError, match=f"mine.jpg.*{test.name}"):
        read_sets(config, resolve(config.data))


@pytest.mark.parametrize("side", [256, 96])
def test_a_copy_that_was_encoded_again_and_relabelled_is_found(tmp_path, side):
    shutil.copytree(SAMPLE["val"], tmp_path / "train")
    val, test = read_set(SAMPLE["val"]), read_set(SAMPLE["test"], need_labels=False)
    copied = test.image(3)[..., ::-1]
    data = cv2.imencode(".jpg", cv2.resize(copied, (side, side)), [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes()
    add_to(tmp_path / "train", "mine.jpg", data, val.landmarks[0] * (side / 256) + 0.01)
    train = read_set(tmp_path / "train")
    mine = train.subset([len(train) - 1])
    assert_disjoint(mine, test)
    assert near_copies(mine, [val, test]) == [(tmp_path / "train" / "mine.jpg", test.folder / test.names[3])]
    assert len(near_copies(train.subset([0, 1]), [val])) == 2


def part_of(name: str, to, count: int) -> None:
    """The first images of one of the sample's sets, which do not look alike, as a set of their own."""
    images = read_set(SAMPLE[name], limit=count)
    to.mkdir(parents=True)
    for file in images.names:
        shutil.copy(images.folder / file, to)
    (to / "annot.pkl").write_bytes(pickle.dumps((list(images.names), images.landmarks.tolist())))


def test_the_training_command_warns_of_what_looks_like_an_image_to_validate_on(tmp_path, capsys, monkeypatch):
    from distill import student
    from distill.training import job

    def stop(*_):
        raise UserError("The data were read.")

    monkeypatch.setattr(job, "_find_teacher", stop)
    for name in ("train", "val"):
        part_of(name, tmp_path / f"synthetics_{name}", 3)
    val = read_set(tmp_path / "synthetics_val")
    (tmp_path / "a.yaml").write_text("model: {backbone: lcnet_050, input_size: 64}\ndata: {workers: 0}")
    command = ["--config", str(tmp_path / "a.yaml"), f"data.root={tmp_path}", "--store", str(tmp_path / "store")]
    printed = []
    for _ in range(2):
        with pytest.raises(UserError, match="were read"):
            student.main(command)
        printed.append(capsys.readouterr().err)
        again = cv2.imencode(".jpg", val.image(1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes()
        add_to(tmp_path / "synthetics_train", "mine.jpg", again, val.landmarks[1] + 0.01)
    assert "warning" not in printed[0]
    (line,) = (line for line in printed[1].splitlines() if line.startswith("warning:"))
    assert "mine.jpg" in line and str(val.folder / val.names[1]) in line


def test_the_bundled_sample_is_disjoint_and_nothing_in_it_looks_alike():
    train, val = read_set(SAMPLE["train"]), read_set(SAMPLE["val"])
    test = read_set(SAMPLE["test"], need_labels=False)
    assert (len(train), len(val), len(test)) == (480, 100, 20)
    assert_disjoint(train, val)
    assert_disjoint(train, test)
    assert near_copies(train, [val, test]) == []


def test_hashes_that_were_kept_are_not_computed_again(tiny_root, tmp_path, monkeypatch):
    train, val = read_set(tiny_root / "synthetics_train"), read_set(tiny_root / "synthetics_val")
    plain, first = near_copies(train, [val]), near_copies(train, [val], tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(disjoint, "_hash", None)
        assert plain == first == near_copies(train, [val], tmp_path / "cache") != []
    next((tmp_path / "cache").glob(f"{train.fingerprint}*")).write_bytes(b"cut")
    assert near_copies(train, [val], tmp_path / "cache") == plain
