"""The report in a real browser: no error, no request, controls that do what they should, nothing wider than a screen.

Chromium is Debian's and installed by the test; without it, or without root to install it, the tests say so and skip.
"""

import json
import re
import subprocess

import pytest
from debian import program
from report_study import analyse, build

from analysis.show import report

WIDTHS = (390, 768, 1280)
# Runs in the page: opens every part, moves the slider, points at a run, and tells the page around it what it sees.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const answer = () => [...document.querySelectorAll("[data-field]")].map((each) => each.textContent).join("|");
  const mark = () => [...document.querySelectorAll(".mark")].map((each) => each.getAttribute("cx")).join("|");
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const before = [answer(), mark()], slider = document.querySelector("input[type=range]");
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  const svgs = [...document.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width > 0);
  const sizes = svgs.flatMap((svg) => [...svg.querySelectorAll("text")].map((text) =>
    parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width));
  const point = svgs[0].querySelector("[data-said]");
  point.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  const wide = [...document.querySelectorAll("body *")].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.right > innerWidth + 1 && !each.closest(".scroll") && !each.closest("svg");
  });
  parent.postMessage({ width: innerWidth, scroll: document.documentElement.scrollWidth, errors, before,
    after: [answer(), mark()], told: document.querySelector(".told-line").textContent, said: point.dataset.said,
    drawn: svgs.length, smallest: Math.min(...sizes), wide: wide.map((each) => each.outerHTML.slice(0, 80)),
    requests: performance.getEntriesByType("resource").map((each) => each.name) }, "*");
}, 300));
</script>"""
ERRORS = '<script>const errors = []; addEventListener("error", (event) => errors.push(event.message));</script>'
AROUND = """<!doctype html><body style="margin:0">%s<pre id="found"></pre><script>
const found = [];
addEventListener("message", (event) => { found.push(event.data);
  document.getElementById("found").textContent = JSON.stringify(found); });
</script></body>"""


def chromium() -> str:
    """Debian's Chromium, installed if it is not here."""
    return program(("chromium", "chromium-browser", "google-chrome"), ("chromium",))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the page tells of itself at each width."""
    folder = tmp_path_factory.mktemp("browser")
    study = build(folder / "study")
    analyse(study)
    page = report.write(study).read_text()
    (folder / "report.html").write_text(
        page.replace("<head>", f"<head>{ERRORS}", 1).replace("</body>", f"{PROBE}</body>", 1)
    )
    frames = "".join(f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS)
    (folder / "around.html").write_text(AROUND % frames)
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--window-size=1400,3000", "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=240
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    text = found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return {each["width"]: each for each in json.loads(text)}


@pytest.mark.system
def test_it_opens_without_an_error_or_a_request(seen):
    assert set(seen) == set(WIDTHS)
    for each in seen.values():
        assert each["errors"] == [] and each["requests"] == []


@pytest.mark.system
def test_controls_change_what_they_should(seen):
    for each in seen.values():
        answers, marks = zip(each["before"], each["after"])
        assert answers[0] != answers[1] and marks[0] != marks[1]
        assert each["told"] == each["said"] and "loss" in each["told"]


@pytest.mark.system
def test_nothing_is_wider_than_the_screen_or_too_small_to_read(seen):
    for width, each in seen.items():
        assert each["scroll"] <= width and each["wide"] == [], each["wide"]
        assert each["smallest"] >= 9, width
        assert each["drawn"] == 17  # one drawing of each figure, for this width
