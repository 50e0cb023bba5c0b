"""The report: one file that holds everything, seen in Chromium, and what it says of results that are not complete."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, find
from PIL import Image
from project_copy import snakemake

from pwm.matrix import Matrix
from workflows import scripts

pytestmark = pytest.mark.xdist_group("workflow")
FIGURES = {f"figures/test/{stem}.png" for stem in scripts("figures")}
TABLES = {f"results/test/tables/{stem}.html" for stem in scripts("tables")}
PAGES = {f"results/test/report/{name}.html" for name in ("missing", "costs", "provenance")}
STRIPS = {
    f"results/test/runs/{run.path}/film_strip.png"
    for run in Matrix("test").runs()
    if (run.suite, run.variant, run.seed) == ("locomotion", "default", 0)
}
CATEGORIES = ["1. Claims", "2. Figures", "3. Tables", "4. Run times and costs", "5. Provenance"]
CATEGORIES += ["6. Film strips"]
WAIT = """window.wait = async (what, ready) => {
    for (let i = 0; i < 1000; i++) {
        const found = ready();
        if (found) return found;
        await new Promise(done => setTimeout(done, 10));
    }
    throw new Error(what);
}; 0"""
# The overview's first link, which opens the first category.
FOLLOW_LINK = """(async () => {
    document.querySelector(".prose a").click();
    await wait("the overview's link", () => app.state.category);
    return app.state.category;
})()"""
# Presses every category in the menu and every result's eye in it, and waits for what is shown: {path: its size}.
LOOK_AT_ALL = """(async () => {
    const rows = () => [...document.querySelectorAll("nav tr")].filter(row => row.querySelector("a"));
    const drawn = element => element.tagName === "IFRAME" || element.naturalWidth > 0;
    const seen = {};
    for (const [name, parts] of Object.entries(categories)) {
        const paths = Object.values(parts)[0];
        app.setView({navbarMode: "menu"});
        const items = () => [...document.querySelectorAll("nav li a")];
        (await wait(name, () => items().find(item => item.innerText.trim() === name))).click();
        await wait(name, () => app.state.category === name && rows().length === paths.length);
        for (let i = 0; i < paths.length; i++) {
            rows()[i].querySelector("a").click();
            const shown = await wait(`${name}, row ${i}`, () => {
                const path = app.state.resultPath;
                if (!path || path in seen) return false;
                const uri = results[path].data_uri, all = [...document.querySelectorAll("img, iframe")];
                return all.find(element => element.src === uri && drawn(element));
            });
            seen[app.state.resultPath] = [shown.naturalWidth || "page", shown.naturalHeight || "page"];
        }
    }
    return seen;
})()"""


@pytest.fixture(scope="module")
def report(project: Path) -> Path:
    """The report on the finished test scale."""
    done = snakemake(project, "--config", "scale=test", "--report", "results/test/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results/test/report.html"


def embedded(report: Path, name: str) -> Any:
    """One of the report's data blocks."""
    return json.loads(re.search(rf"^    var {name} = (.*);$", report.read_text(encoding="utf-8"), re.MULTILINE)[1])


def content(result: dict) -> bytes:
    """What a result's data URI holds."""
    return base64.b64decode(result["data_uri"].partition("base64,")[2])


def test_everything_is_in_it_under_its_category_with_a_caption(report: Path) -> None:
    results, categories = embedded(report, "results"), embedded(report, "categories")
    assert set(results) == FIGURES | TABLES | PAGES | STRIPS
    assert sorted(categories) == CATEGORIES
    in_category = {path: name for name, parts in categories.items() for paths in parts.values() for path in paths}
    assert {path for path, name in in_category.items() if name == CATEGORIES[0]} == {"results/test/tables/claims.html"}
    assert {path for path, name in in_category.items() if name == "2. Figures"} == FIGURES
    assert {path for path, name in in_category.items() if name == "6. Film strips"} == STRIPS
    for path, result in results.items():
        assert len(result["caption"]) > 50 and "Undefined" not in result["caption"], path
        if path.endswith(".html"):
            text = content(result).decode()
            assert "<table" in text or "Nothing is missing" in text
            assert not re.search(r"(src|href)=|@import|url\(", text), path
        else:
            assert min(Image.open(io.BytesIO(content(result))).size) > 100


def test_the_overview_and_the_pages_tell_of_every_run(report: Path) -> None:
    results, runs = embedded(report, "results"), Matrix("test").runs()
    assert f"Nothing is missing: all {len(runs)} runs are scored." in embedded(report, "workflow_desc")
    told = content(results["results/test/report/provenance.html"]).decode()
    for run in runs:
        assert f"<td>runs/{run.path}</td>" in told
    assert "torch" in told and "updates: 4" in told  # versions, settings
    costs = content(results["results/test/report/costs.html"]).decode()
    assert re.search(rf"<td>evaluate</td>\s*<td>{len(runs)}</td>", costs)


@pytest.mark.skipif(find() is None, reason="no Chromium is installed: chromium or google-chrome on the PATH")
def test_in_chromium_every_result_shows_and_nothing_is_asked_of_the_network(report: Path, tmp_path: Path) -> None:
    alone = shutil.copy(report, tmp_path / "report.html")
    page = Page(tmp_path / "profile")
    try:
        page.open(Path(alone))
        page.run(WAIT)
        assert page.run(FOLLOW_LINK) == CATEGORIES[0]
        seen = page.run(LOOK_AT_ALL)
    finally:
        page.close()
    assert set(seen) == FIGURES | TABLES | PAGES | STRIPS
    for path, shown in seen.items():
        assert shown == ["page", "page"] if path.endswith(".html") else min(shown) > 100, path
    assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [Path(alone).as_uri()]
    assert page.errors == []


def test_a_partial_set_of_results_is_reported_with_what_is_missing(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    lost = "mt30/reacher-easy/random/default/seed1"
    shutil.rmtree(folder / "results/test/runs" / lost)
    (folder / "results/test/gradients/ball_wall.csv").unlink()
    for path in [*folder.glob("figures/test/ball_wall.*")]:
        path.unlink()
    for words in ((), ("--report", "results/test/report.html")):
        done = snakemake(folder, "--config", "scale=test", "partial=true", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "results/test/runs" / lost / "eval.json").exists()
    whole, report = len(Matrix("test").runs()), folder / "results/test/report.html"
    assert f"1 of {whole} runs are missing." in embedded(report, "workflow_desc")
    results = embedded(report, "results")
    assert FIGURES - set(results) == {"figures/test/ball_wall.png"}
    assert re.search(r"Verdicts: C1 [a-z ]+; .*C10 [a-z ]+\.", embedded(report, "workflow_desc"))
    claims = content(results["results/test/tables/claims.html"]).decode()
    assert "not had: ball-wall" in claims.replace("\n", " ") and "not had: double pendulum" not in claims
    told = content(results["results/test/report/missing.html"]).decode()
    assert re.search(
        r"<td>reacher-easy</td>\s*<td>random</td>\s*<td>default</td>\s*<td>1</td>\s*<td>not trained</td>", told
    )
    assert "their measurements are missing: ball_wall." in told
