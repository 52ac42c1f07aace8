"""One bad image does not end the work of a command: it is left out, listed, and the exit code says so."""

from __future__ import annotations

import json

import pytest

from distill.errors import UserError
from distill.evaluate import __main__ as evaluate
from distill.export import __main__ as export
from distill.models.files import read_description
from distill.submission import __main__ as submit
from distill.submission import file as submission


@pytest.fixture
def commands(exported, tiny_root, tmp_path, bare, monkeypatch):
    """Command -> its call on a set in which one image is cut short."""
    monkeypatch.setattr("distill.evaluate.job.pictures", lambda *_, **__: [])
    for name in ("synthetics_val/010003.jpg", "synthetics_test/020001.jpg"):
        path = tiny_root / name
        path.write_bytes(path.read_bytes()[:-200])
    model, val, test = str(exported.weights), str(tiny_root / "synthetics_val"), str(tiny_root / "synthetics_test")
    return {
        "evaluate": (evaluate.main, [model, "--data", val, "--out", str(tmp_path / "report")]),
        "export": (export.main, [model, "--images", test, "--out", str(tmp_path / "export")]),
        "calibrate": (export.main, [model, "--calibrate", val, "--out", str(tmp_path / "export")]),
        "submission": (submit.main, ["make", model, "--images", test, "--out", str(tmp_path / "made.zip")]),
    }


@pytest.mark.parametrize("command", ["evaluate", "export", "calibrate", "submission"])
def test_one_bad_image_is_left_out_and_listed_and_the_rest_is_done(commands, command, tmp_path, capsys):
    main, args = commands[command]
    bad = "010003.jpg" if command in ("evaluate", "calibrate") else "020001.jpg"
    with pytest.raises(UserError, match=bad):
        main([*args, "--on-bad", "stop"])
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 1 and bad in capsys.readouterr().err
    if command == "evaluate":
        report = json.loads((tmp_path / "report/report.json").read_text())
        assert report["images"] == len(report["names"]) == 7 and list(report["left_out"]) == [bad]
    elif command == "calibrate":
        assert "calibration" in read_description(tmp_path / "export/student.safetensors")
    else:
        made = tmp_path / ("export/solution.zip" if command == "export" else "made.zip")
        assert submission.read(made)[0] == ["020000.jpg", "020002.jpg", "020003.jpg"]
