"""Figures show the numbers they are given, at the places they are given."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex

from distill import figures, metrics
from distill.headpose import mean_face
from distill.landmarks import IBUG68


def face(size: int = 96) -> np.ndarray:
    return mean_face()[:, :2] * [size / 24, -size / 24] + size / 2


def images(count: int, size: int = 96) -> list[np.ndarray]:
    return [np.full((size, size, 3), 40 + index, np.uint8) for index in range(count)]


def lines(axes, colour: str) -> np.ndarray:
    """All points of the polylines of one colour that axes holds."""
    found = [line.get_xydata() for line in axes.get_lines() if to_hex(line.get_color()) == colour]
    return np.concatenate([points for points in found if len(points) < 68])


def report(scale: float, yaw: list[float]) -> metrics.Report:
    target = np.stack([face()] * len(yaw))
    pred = target.copy()
    pred[:, :17] += [2 * scale, 0]
    pred[:, 17:] += [scale, 0]
    return metrics.evaluate(pred, target, np.array([100, 100]), yaw=np.array(yaw), roll=np.full(len(yaw), -20))


def written(figure, path) -> np.ndarray:
    picture = cv2.imread(str(figures.to_png(figure, path)))
    assert picture is not None and picture.std() > 5
    return picture


def test_matplotlib_waits_for_the_first_figure_and_pyplot_stays_away():
    program = (
        "import sys, numpy as np; from distill import figures;"
        "figures.draw(np.zeros((64, 64, 3), np.uint8), np.random.rand(68, 2) * 64);"
        "assert 'matplotlib' not in sys.modules;"
        "figures.ced({'student': np.array([1.0, 2.0])});"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_overlay_draws_both_in_the_pixels_of_the_image(tmp_path):
    pred, target = np.stack([face()] * 5), np.stack([face() + 3] * 5)
    figure = figures.overlay_sheet(images(5), pred, target, [f"{i}.jpg" for i in range(5)], columns=3, title="Sheet")
    used = figure.axes
    assert len(used) == 5
    assert used[4].images[0].get_array()[0, 0, 0] == 44
    assert tuple(used[0].images[0].get_extent()) == (0, 96, 96, 0)  # the outer corner of the first pixel is (0, 0)
    assert used[0].get_xlim() == (0, 96) and used[0].get_ylim() == (96, 0)
    for points, colour in ((pred, figures.PREDICTION), (target, figures.TRUTH)):
        drawn = np.unique(lines(used[0], colour).round(6), axis=0)
        np.testing.assert_allclose(drawn, np.unique(points[0].round(6), axis=0))
    assert "0.jpg" in [text.get_text() for text in used[0].texts]
    written(figure, tmp_path / "sheet.png")


def test_overlay_needs_no_labels():
    figure = figures.overlay_sheet(images(1), face()[None])
    assert not any(to_hex(line.get_color()) == figures.TRUTH for line in figure.axes[0].get_lines())
    assert "green" not in " ".join(text.get_text() for text in figure.texts)


def test_choose_takes_both_ends_and_the_middle():
    errors = np.array([9.0, 1, 8, 2, 7, 3, 6, 4, 5])
    chosen = {name: errors[indices].tolist() for name, indices in figures.choose(errors, 3).items()}
    assert chosen == {"best": [1, 2, 3], "median": [4, 5, 6], "worst": [7, 8, 9]}
    assert figures.choose(errors[:2], 4)["worst"].tolist() == [1, 0]


def test_best_median_worst_prints_errors_and_decodes_only_what_it_shows():
    class Lazy:
        asked: list[int] = []

        def __getitem__(self, index):
            self.asked.append(int(index))
            return images(1)[0]

    errors = np.arange(40)[::-1] / 4
    points = np.stack([face()] * 40)
    figure = figures.best_median_worst(Lazy(), points, points, errors, [f"n{i}" for i in range(40)], each=2)
    assert Lazy.asked == [39, 38, 20, 19, 1, 0]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ["0.00 %", "n39", "0.25 %", "n38", "4.75 %", "n20", "5.00 %", "n19", "9.50 %", "n1", "9.75 %", "n0"]


def test_teacher_against_student_has_a_row_an_image_and_a_column_a_model(tmp_path):
    predictions = {"teacher": np.stack([face(), face() + 1]), "student": np.stack([face() + 2, face() + 3])}
    errors = {"teacher": np.array([1.0, 2.0]), "student": np.array([3.0, 4.0])}
    figure = figures.teacher_against_student(images(2), None, predictions, errors)
    assert len(figure.axes) == 4
    for axes, offset, words in zip(figure.axes, [0, 2, 1, 3], ["1.00 %", "3.00 %", "2.00 %", "4.00 %"], strict=True):
        np.testing.assert_allclose(lines(axes, figures.PREDICTION).min(axis=0), face().min(axis=0) + offset)
        assert axes.texts[0].get_text() == words
    written(figure, tmp_path / "models.png")


def test_learning_curves_sorts_metrics_into_panels(tmp_path):
    history = {
        "val/nme": [(1, 9.0), (2, 3.0), (3, 4.0)],
        "train/raw/kl": [(1, 2.0), (2, 1.0), (3, 0.5)],
        "train/weighted/kl": [(1, 1.0), (2, 0.2), (3, 0.0)],
        "lr": [(1, 1e-3), (2, 1e-4), (3, 1e-5)],
        "train/images_per_second": [(1, 100.0)],
    }
    figure = figures.learning_curves(history)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Validation NME (%)", "Loss terms, weighted", "Loss terms, raw", "Learning rate"]
    main = panels["Validation NME (%)"]
    assert main.get_yscale() == "log"
    assert main.get_lines()[0].get_xydata().tolist() == [[1, 9], [2, 3], [3, 4]]
    assert any("3.00 %, epoch 2" in text.get_text() for text in figure.texts)
    assert panels["Loss terms, raw"].get_lines()[0].get_ydata().tolist() == [2, 1, 0.5]
    both = [
        next(line for line in panels[f"Loss terms, {kind}"].get_lines() if line.get_label() == "kl")
        for kind in ("raw", "weighted")
    ]
    assert both[0].get_color() == both[1].get_color()
    written(figure, tmp_path / "curves.png")
    written(figures.learning_curves({"val/nme": [(1, 5.0)]}), tmp_path / "first_epoch.png")


def test_ced_draws_the_metrics_curve(tmp_path):
    errors = {"teacher": np.array([1.0, 2.0, 9.0]), "student": np.array([3.0, 4.0, 5.0])}
    figure = figures.ced(errors)
    line = figure.axes[0].get_lines()[0]
    thresholds, fractions = metrics.ced(errors["teacher"])
    np.testing.assert_allclose(line.get_xydata(), np.stack([thresholds, 100 * fractions], axis=1))
    assert line.get_drawstyle() == "steps-post"
    words = figure.axes[0].get_legend().get_texts()[0].get_text()
    assert words == "teacher:  NME 4.00 %,  AUC 0.542,  failures 33.3 %"
    written(figure, tmp_path / "ced.png")


def test_error_by_point_colours_each_point(tmp_path):
    values = np.linspace(1, 4, 68)
    figure = figures.error_by_point(values)
    discs = figure.axes[0].collections[0]
    assert discs.get_array().tolist() == values.tolist()
    offsets = np.asarray(discs.get_offsets())
    np.testing.assert_allclose(offsets[:17], mean_face()[:17, :2])
    apart = np.linalg.norm(offsets[:, None] - offsets, axis=2) + 99 * np.eye(68)
    assert apart.min() > 0.4  # cm on the face: discs do not hide each other
    assert [text.get_text() for text in figure.axes[0].texts] == ["4.0", "4.0", "3.9"]
    written(figure, tmp_path / "points.png")
    assert figures.error_by_point(np.zeros(68), signed=True, size=(2.3, 2.5)).axes[0].collections[0].get_clim()[0] < 0


def test_bars_have_the_reports_heights_and_leave_empty_bins_out(tmp_path):
    reports = {"teacher": report(1, [0, 45]), "student": [report(1.5, [0, 45]), report(2.5, [0, 45])]}
    figure = figures.error_by_region_and_pose(reports)
    by_region, by_yaw, by_roll = figure.axes
    heights = [[bar.get_height() for bar in container] for container in by_region.containers]
    assert heights[0] == pytest.approx([1.25, 2, 1, 1, 1, 1])
    assert heights[1] == pytest.approx([2.5, 4, 2, 2, 2, 2]), "the mean over its seeds"
    assert [label.get_text() for label in by_region.get_xticklabels()] == ["all", *IBUG68.regions]
    assert [label.get_text() for label in by_yaw.get_xticklabels()] == ["< 30°\nn = 1", "30-60°\nn = 1"]
    assert [label.get_text() for label in by_roll.get_xticklabels()] == ["15-45°\nn = 2"]
    written(figure, tmp_path / "bars.png")
    target = np.stack([face()] * 2)
    plain = metrics.evaluate(target, target, np.array([100, 100]))
    assert len(figures.error_by_region_and_pose({"student": plain}).axes) == 1


def test_a_model_keeps_its_colour():
    assert figures.colours({"student": 0, "teacher": 0}) == figures.colours({"teacher": 0, "student": 0})
    many = figures.colours({name: 0 for name in ["distilled", "student b", "teacher", "x", "y", "control"]})
    assert len(set(many.values())) == 6


def test_heat_is_drawn_at_its_extent():
    heat = np.zeros((10, 10))
    heat[2, 7] = 1.0  # its cell is 40 px wide and reaches from x = 280 - 20, y = 80 - 20
    drawn = figures.heat_over(np.zeros((400, 400, 3), np.uint8), heat, (-20, -20, 380, 380)).sum(axis=2)
    y, x = np.argwhere(drawn == drawn.max()).mean(axis=0)
    assert (x, y) == (pytest.approx(280, abs=2), pytest.approx(80, abs=2))
    assert drawn[300, 100] < drawn.max() / 10


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figures.learning_curves(
            {"val/nme": [(e, 5000.0 / e) for e in range(1, 30)], "train/raw/kl": [(1, 1e-5), (2, 1e-3)]}
        ),
        lambda: figures.curves(
            {"a long name of a term": [(1, 0.00012), (2, 0.00011)]}, "weighted loss", size=(3.4, 2.4)
        ),
        lambda: figures.error_by_region_and_pose({"student": report(2000, [0, 45])}, title="", size=(7, 2.4)),
        lambda: figures.forest(
            [figures.Effect("a variant whose name is long", -12.3, -14, -10, True, (-12, -13))], "control"
        ),
    ],
    ids=["learning curves", "small", "bars", "forest"],
)
def test_no_label_is_cut_off_at_the_edge(figure):
    figure = figure()
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox()  # with the labels that are drawn
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_a_page_decides_the_colours_of_an_svg_and_its_ids_are_its_own():
    first, second = (
        figures.to_svg(figures.ced({"control": np.array([1.0, 2.0])}, title=""), name) for name in ("a", "b")
    )
    assert "var(--control)" in first and "var(--muted)" in first and "#8d96a3" not in first
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]


def test_draw_puts_points_where_they_are():
    """The centre of the orange disc is the landmark, with (0, 0) at the outer corner of the first pixel."""
    canvas = np.zeros((512, 512, 3), np.uint8)
    for place in ([200.3, 141.8], [300.0, 50.5]):
        points = np.tile(place, (68, 1))
        points[0] = (2000, 2000)  # gives the face a size, and lies beyond the frame
        picture = figures.draw(canvas, points).astype(float)
        light = np.clip(picture[..., 0] - picture[..., 2], 0, None)  # orange; the white line is left out
        rows, columns = np.mgrid[:512, :512] + 0.5
        found = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
        assert found == pytest.approx(place, abs=0.2)
    assert canvas.max() == 0  # a copy was drawn on


def test_draw_scales_with_the_picture_and_shows_confidence():
    def covered(size):
        return (figures.draw(np.zeros((size, size, 3), np.uint8), face(size)) > 60).any(axis=2).mean()

    assert covered(1024) == pytest.approx(covered(512), rel=0.25)
    sure = np.ones(68)
    sure[30] = 0
    picture = figures.draw(np.zeros((512, 512, 3), np.uint8), face(512), sure)
    unsure, other = (picture[tuple((face(512)[index] - 0.5).round().astype(int)[::-1])] for index in (30, 8))
    assert unsure[0] > 200 > 60 > unsure[1]  # red
    assert other[1] > 190 > 90 > other[0]  # green


def test_png_is_whole_or_not_there(tmp_path):
    figure = figures.ced({"student": np.array([1.0])})
    path = figures.to_png(figure, tmp_path / "new" / "a.png")
    assert path.read_bytes() == figures.to_png(figure, tmp_path / "new" / "b.png").read_bytes()

    class Broken:
        def savefig(self, target, **_):
            target.write_bytes(b"half")
            raise RuntimeError("disk full")

    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        figures.to_png(Broken(), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.png", "b.png"]
