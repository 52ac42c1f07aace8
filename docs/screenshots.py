"""Take the pictures of docs/mlflow.md again: python docs/screenshots.py http://127.0.0.1:5000 distill docs/images

Wants the packages playwright and pillow (`pip install playwright pillow`; no part of the project) and a Chromium on
the PATH (or `playwright install chromium`), and a running MLflow whose experiment has a teacher, a control and a
distilled student.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 1500, "height": 900}
WIDTH = 1400  # of the pictures
MODEL = "distill-student"
# what a person has clicked away after the first visit
SETTLED = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
"""


def api(url: str, path: str, **given) -> dict:
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", method="POST" if given else "GET")
    request.add_header("Content-Type", "application/json")
    return json.load(urllib.request.urlopen(request, json.dumps(given).encode() if given else None))


def newest(url: str, experiment: str, role: str) -> str:
    """Run id of the newest finished run of this role that is no part of a grid or a search."""
    where = f"tags.`distill.role` = '{role}' and attributes.status = 'FINISHED'"
    found = api(url, "runs/search", experiment_ids=[experiment], filter=where, order_by=["attributes.start_time DESC"])
    alone = (run for run in found["runs"] if all(tag["key"] != "mlflow.parentRunId" for tag in run["data"]["tags"]))
    return next(alone)["info"]["run_id"]


def differences(page: Page) -> None:
    """Of the comparison of runs: only what differs, without the plot."""
    page.get_by_text("Visualizations").click()
    page.get_by_text("Show diff only").first.click()
    page.get_by_text("Parameters", exact=True).last.scroll_into_view_if_needed()


def some_charts(page: Page) -> None:
    page.get_by_placeholder("Search metric charts").fill("^val/", timeout=120_000)


def pages(url: str, experiment: str) -> dict[str, tuple[str, Callable[[Page], None] | None]]:
    """File name -> address, and what is to be clicked there."""
    roles = ("distilled", "control", "teacher")
    runs = {role: newest(url, experiment, role) for role in roles}
    chosen = quote(json.dumps(list(runs.values())))
    demo = quote("attributes.run_name LIKE 'demo-%'")
    home = f"#/experiments/{experiment}/runs"
    return {
        "runs": (f"{home}?viewStateShareKey=distill-runs", None),
        "compare": (f"#/compare-runs?runs={chosen}&experiments={quote(json.dumps([experiment]))}", differences),
        "charts": (f"{home}?compareRunsMode=CHART&searchFilter={demo}", some_charts),
        "run": (f"{home}/{runs['distilled']}", None),
        "pictures": (f"{home}/{runs['distilled']}/artifacts/pictures/overlays.png", None),
        "model": (f"#/models/{MODEL}", None),
    }


def save(png: bytes, file: Path) -> None:
    """As a PNG of 256 colours: a page has few, and the file is a quarter."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="of a running MLflow")
    parser.add_argument("experiment", help="its name")
    parser.add_argument("out", type=Path, help="folder for mlflow_*.png")
    parser.add_argument("--only", nargs="*", default=None, help="some of the pictures")
    parser.add_argument("--wait", type=float, default=15, help="seconds for a page to be drawn (default: %(default)s)")
    args = parser.parse_args()
    found = api(args.url, f"experiments/get-by-name?experiment_name={quote(args.experiment)}")
    places = pages(args.url, found["experiment"]["experiment_id"])
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport=SIZE)
        context.add_init_script(SETTLED)
        for name in args.only or places:
            address, click = places[name]
            page = context.new_page()
            page.goto(f"{args.url}/{address}")
            time.sleep(args.wait)
            if click:
                click(page)
                time.sleep(args.wait)
            save(page.screenshot(timeout=120_000), args.out / f"mlflow_{name}.png")
            print(args.out / f"mlflow_{name}.png", flush=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
