"""Pictures and boxes around the network: where points come out, and what is refused."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import onnx
import pytest
from conftest import draw_face
from PIL import Image

from distill.data import augment, images
from distill.data.annotations import _crop_boxes
from distill.errors import UserError
from distill.predict import boxes, crops, pictures
from distill.predict.runtime import OnnxNetwork, Student


class DotFinder:
    """A network that knows one thing: where the white dot is."""

    size = 96

    def __call__(self, images):
        weight = np.clip(images[..., 0].astype(float) - 100, 0, None)
        weight /= weight.sum(axis=(1, 2), keepdims=True)
        at = np.arange(self.size) + 0.5
        points = np.stack([(weight.sum(1) * at).sum(1), (weight.sum(2) * at).sum(1)], axis=1)
        return points[:, None].astype(np.float32), np.ones((len(images), 1), np.float32)


def dotted(width: int, height: int, x: float, y: float, radius: float = 12) -> np.ndarray:
    """A grey picture with a soft white dot, its centre at continuous pixels (x, y)."""
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    dot = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * radius**2))
    return np.repeat((60 + 195 * dot).astype(np.uint8)[..., None], 3, axis=2)


# ---------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((384, 384), None),
        ((641, 384), None),
        ((300, 555), None),
        ((50, 80), None),
        ((96, 96), None),
        ((640, 480), (300, 150, 120, 150)),
        ((640, 480), (250.5, 99.25, 250, 180)),
        ((640, 480), (-40, -60, 500, 500)),
        ((640, 480), (330, 180, 60, 60)),
    ],
)
def test_points_come_back_to_the_pixels_they_were_seen_in(size, box):
    width, height = size
    x, y = (0.6 * width, 0.45 * height) if box is None else (362.0, 208.0)
    radius = max(size) / 32 if box is None else 12
    found = Student(DotFinder(), "dots")(dotted(width, height, x, y, radius), box)
    assert found.points[0] == pytest.approx([x, y], abs=0.15)
    assert found.points.dtype == np.float32 and found.confidence.shape == (1,)


def test_a_square_picture_is_cut_as_evaluation_cuts_it():
    for size in (64, 150, 40):
        image, _ = draw_face(np.random.default_rng(size), size)
        assert (crops.cut(image, 64).pixels == augment.plain(image, None, 64)[0]).all()


def test_a_picture_that_is_not_square_keeps_its_proportions_between_black_bars():
    image = np.full((100, 200, 3), 255, np.uint8)
    crop = crops.cut(image, 64)
    assert (crop.pixels[17:47] == 255).all() and not crop.pixels[:15].any() and not crop.pixels[49:].any()
    assert crop.to_picture(np.array([[32.0, 32.0]])) == pytest.approx(np.array([[100.0, 50.0]]))


def test_a_box_around_landmarks_makes_the_crop_that_training_has():
    _, points = draw_face(np.random.default_rng(0), 512)
    low, high = points.min(0), points.max(0)
    crop = crops.cut(np.zeros((512, 512, 3), np.uint8), 64, (*low, *(high - low)), box_scale=1.9)
    x0, y0, x1, _ = _crop_boxes(points[None], 1.9, 0.08)[0]
    assert (crop.left, crop.top, crop.side) == pytest.approx((x0, y0, x1 - x0), abs=0.5)


def test_a_box_scale_of_one_takes_the_box_as_it_is():
    image, _ = draw_face(np.random.default_rng(0), 200)
    crop = crops.cut(image, 64, (30, 20, 128, 128), box_scale=1)
    assert (crop.left, crop.top, crop.side) == (30, 20, 128)
    areas = cv2.resize(image[20:148, 30:158], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.pixels.astype(int) - areas).mean() < 1


@pytest.mark.parametrize(
    ("box", "scale", "words"),
    [
        ((1, 2, 3), 1.7, "four"),
        ((1, 2, 0, 5), 1.7, "above 0"),
        ((1, 2, float("nan"), 5), 1.7, "finite"),
        ("abcd", 1.7, "four"),
        ((300, 0, 50, 50), 1.7, "200x100"),
        ((0, 0, 50, 50), 0, "box scale"),
    ],
)
def test_a_wrong_box_is_refused(box, scale, words):
    with pytest.raises(UserError, match=words):
        crops.cut(np.zeros((100, 200, 3), np.uint8), 64, box, scale)


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
        7,
        None,
    ],
)
def test_what_is_no_rgb_picture_is_refused(picture):
    with pytest.raises(UserError, match="expected"):
        pictures.to_rgb(picture)


def test_files_are_read_upright_and_pil_images_as_they_are(tmp_path):
    turned = np.zeros((20, 40, 3), np.uint8)
    turned[:, :8] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(turned).save(tmp_path / "phone.jpg", exif=exif, quality=98)
    upright = pictures.to_rgb(tmp_path / "phone.jpg")
    assert upright.shape == (40, 20, 3) and upright[2, 10, 0] > 200 and upright[35, 10, 0] < 50
    assert pictures.to_rgb(Image.open(tmp_path / "phone.jpg")).shape == (20, 40, 3)
    assert upright[2, 10, 2] < 50, "red first"


def test_grey_and_transparent_pictures_are_read_as_rgb(tmp_path):
    Image.new("L", (9, 7), 80).save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 7), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    assert (pictures.to_rgb(tmp_path / "grey.png") == 80).all()
    assert (
        pictures.to_rgb(tmp_path / "clear.png").shape
        == pictures.to_rgb(Image.open(tmp_path / "clear.png")).shape
        == (7, 9, 3)
    )


@pytest.mark.parametrize("mode", ["L", "I;16", "1", "P", "RGBA", "LA"])
def test_a_pil_image_is_read_as_its_file_is(tmp_path, mode):
    ramp = np.linspace(0, 65535, 63).reshape(7, 9)
    image = (
        Image.fromarray(ramp.astype(np.uint16))
        if mode == "I;16"
        else Image.fromarray((ramp / 257).astype(np.uint8)).convert(mode)
    )
    image.save(tmp_path / "picture.png")
    assert image.mode == mode
    assert np.abs(pictures.to_rgb(image).astype(int) - pictures.to_rgb(tmp_path / "picture.png")).max() <= 1


def test_a_cmyk_tiff_is_one_picture_by_path_by_pil_image_and_by_array(tmp_path):
    Image.fromarray(draw_face(np.random.default_rng(5), 96)[0]).convert("CMYK").save(tmp_path / "print.tif")
    with Image.open(tmp_path / "print.tif") as image:
        assert image.mode == "CMYK"
        array = np.asarray(image.convert("RGB"))
        found = [pictures.to_rgb(picture) for picture in (tmp_path / "print.tif", image, array)]
    assert np.ptp(array) > 200 and all(np.array_equal(one, array) for one in found)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_modes_without_a_known_range_are_refused_by_name(mode):
    with pytest.raises(UserError, match=f"mode '{mode}'"):
        pictures.to_rgb(Image.new(mode, (9, 7)))


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="a.png"):
        images.read(tmp_path / "a.png")
    with pytest.raises(UserError, match="absent.png"):
        images.read(tmp_path / "absent.png")


# ---------------------------------------------------------------------------------------------------- the ONNX file


def foreign(path, inputs: str, outputs: tuple[str, ...], **metadata: str):
    shape = [1, 8, 8, 3]
    nodes = [onnx.helper.make_node("Identity", [inputs], [name]) for name in outputs]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in (inputs, *outputs)]
    graph = onnx.helper.make_graph(nodes, "foreign", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_a_file_that_is_no_exported_student_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match="text.onnx"):
        OnnxNetwork(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="absent.onnx"):
        OnnxNetwork(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match="a.onnx.* description"):
        OnnxNetwork(foreign(tmp_path / "a.onnx", "image", ("points", "confidence")))
    described = json.dumps({"about": {}})
    with pytest.raises(UserError, match="b.onnx.*x, points, confidence"):
        OnnxNetwork(foreign(tmp_path / "b.onnx", "x", ("points", "confidence"), distill=described))
    with pytest.raises(UserError, match="c.onnx.*image, points;"):
        OnnxNetwork(foreign(tmp_path / "c.onnx", "image", ("points",), distill=described))


# ---------------------------------------------------------------------------------------------------- boxes


def test_every_form_of_a_box_file_is_read_alike(tmp_path):
    rows = [("a.jpg", 1, 2.5, 30, 40), ("b.jpg", -5, 0, 10, 10), ("a.jpg", 50, 2, 30, 40)]
    objects = [dict(zip(("image", "x", "y", "w", "h"), row, strict=True)) for row in rows]
    several = {"a.jpg": [list(rows[0][1:]), list(rows[2][1:])], "b.jpg": list(rows[1][1:])}
    (tmp_path / "list.json").write_text(json.dumps(objects))
    (tmp_path / "object.json").write_text(json.dumps(several))
    lines = ["h,image,score,x,y,w", *(f"{h},{image},0.9,{x},{y},{w}" for image, x, y, w, h in rows), ""]
    (tmp_path / "spread.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    read = [boxes.read(tmp_path / name).of for name in ("list.json", "object.json", "spread.csv")]
    assert read[0] == read[1] == read[2] == {"a.jpg": ((1, 2.5, 30, 40), (50, 2, 30, 40)), "b.jpg": ((-5, 0, 10, 10),)}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "image,x,y,w\n", "line 1 has no column 'h'"),
        (
            "a.csv",
            "image,x,y,w,h\na.jpg,1,2,3,4\na.jpg,1,two,3,4\n",
            "line 3, field 'y' is 'two'; expected a finite number",
        ),
        ("a.csv", "image,x,y,w,h\na.jpg,1,2,0,4\n", "line 2, field 'w' is '0'; expected a number above 0"),
        ("a.csv", "image,x,y,w,h\na.jpg,1,nan,3,4\n", "line 2, field 'y'"),
        ("a.csv", "image,x,y,w,h\na.jpg,1,2,3\n", "line 2 has 4 fields; expected 5"),
        ("a.csv", "image,x,y,w,h\n,1,2,3,4\n", "line 2, field 'image'"),
        ("a.csv", "image,x,y,w,h\n", "no box"),
        ("a.json", '[\n{"image": "a.jpg",}]', "line 2 is not JSON"),
        ("a.json", '[{"image": "a.jpg", "x": 1, "y": 2, "w": 3}]', "entry 0 has no field 'h'"),
        ("a.json", '[{"image": "a.jpg", "x": 1, "y": 2, "w": 3, "h": true}]', "entry 0, field 'h' is True"),
        ("a.json", '{"a.jpg": [[1, 2, 3, 4], [1, 2, 3]]}', "image 'a.jpg', box 1"),
        ("a.json", '{"a.jpg": [1, 2, 3, null]}', "image 'a.jpg', field 'h' is None"),
        ("a.json", "[[1, 2, 3, 4]]", "entry 0"),
        ("a.json", "7", "expected a list or an object"),
        ("a.json", "[" * 20_000, "nested too deeply"),
        ("a.json", '{"a.jpg": ' + "[" * 400 + "]" * 400 + "}", "image 'a.jpg'"),
        ("a.json", '[{"image": "a.jpg", "x": ' + "1" * 5_000 + "}]", "impossible number"),
        ("a.csv", "image,x,y,w,h\n" + "a" * 200_000 + ",1,2,3,4", "is not CSV"),
        ("a.csv", "image,x,y,w,h\na.jpg," + "y" * 100_000 + ",2,3,4", "line 2, field 'x'"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_box_file_names_its_line_and_field(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        boxes.read(tmp_path / name)
    assert words in str(error.value) and name in str(error.value) and len(str(error.value)) < 300


def test_a_frame_number_of_thousands_of_digits_or_a_pipe_is_one_sentence(tmp_path):
    (tmp_path / "a.csv").write_text("image,x,y,w,h\n" + "7" * 5_000 + ",1,2,3,4\n")
    with pytest.raises(UserError, match="a.csv"):
        boxes.read(tmp_path / "a.csv").by_frame()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="pipe.csv"):
        boxes.read(tmp_path / "pipe.csv")
