"""The page in a real browser: no error, nothing fetched, nothing wider than the screen, columns that sort."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import reporting as made

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]

LISTEN = """<script>
window.seen = {errors: [], refused: []};
addEventListener("error", event => seen.errors.push(String(event.message || event.target.tagName)), true);
addEventListener("unhandledrejection", event => seen.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => seen.refused.push(event.blockedURI || event.violatedDirective));
for (const level of ["error", "warn"]) console[level] = (...words) => seen.errors.push(words.join(" "));
</script>"""
ASK = """<script>
addEventListener("load", () => {
  const table = document.querySelector("#results-table");
  const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === "NME, %");
  const head = table.tHead.rows[0].cells[column];
  const values = () => [...table.tBodies[0].rows].map(row => row.cells[column].textContent.trim());
  head.click(); seen.rising = values(); head.click(); seen.falling = values();
  seen.focusable = head.tabIndex >= 0;
  seen.fetched = performance.getEntriesByType("resource").map(entry => entry.name);
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  seen.charts = [...document.querySelectorAll(".picture svg")].map(svg => svg.getBoundingClientRect().width);
  const box = document.createElement("pre");
  box.id = "seen"; box.textContent = JSON.stringify(seen); document.body.append(box);
});
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Opens the page at a width and gives back what it saw."""
    folder = tmp_path_factory.mktemp("browser")
    page = made.document().html()
    assert "<head>\n" in page and "</body>" in page
    # the listeners come first, and are let in by the page's own policy
    (folder / "page.html").write_text(
        page.replace("<head>\n", f"<head>\n{LISTEN}\n", 1).replace("</body>", f"{ASK}</body>")
    )

    def look(width: int) -> dict:
        command = [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},1400",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "page.html").as_uri(),
        ]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
        found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
        assert found, "the page's script did not come to its end"
        return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    return look


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_works_in_a_browser(seen, width):
    found = seen(width)
    assert found["errors"] == [] and found["refused"] == []
    assert [name for name in found["fetched"] if not name.startswith("data:")] == []
    assert found["wide"] <= 0, "nothing reaches beyond the screen"
    assert len(found["charts"]) >= 8 and min(found["charts"]) > 200
    expected = sorted(f"{run.nme:.3f}" for run in made.trio())
    assert found["rising"] == expected and found["falling"] == expected[::-1]
    assert found["focusable"]
