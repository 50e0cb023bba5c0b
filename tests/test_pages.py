"""Numbers of a finished scale go into its page between marks, and figures beside it."""

import pandas as pd
import pytest
from support import refusal

from workflows import readme

PAGE = """top
<!-- per_task_scores -->
old
<!-- end -->
![x](docs/demo/curve.png)
<!-- costs -->
<!-- end -->
<!-- redraw -->
<!-- end -->
<!-- figures -->
<!-- end -->
<!-- tables -->
<!-- end -->
bottom
"""


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A project with a finished demo of three jobs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["readme"])
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    for folder in ("docs", "figures/demo", "results/demo/tables", "results/demo/benchmarks/extract/mt30"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "figures/demo/curve.png").write_bytes(b"picture")
    (tmp_path / "results/demo/tables/per_task_scores.md").write_text("| a |\n", encoding="utf-8")
    rows = {"extract/mt30/a.tsv": (60.0, 512.0), "extract/mt30/b.tsv": (180.0, 1024.0), "collate.tsv": (6.0, "-")}
    for name, (seconds, memory) in rows.items():
        jobs = pd.DataFrame({"s": [seconds], "max_rss": [memory]})
        jobs.to_csv(tmp_path / "results/demo/benchmarks" / name, sep="\t", index=False)
    return tmp_path


def test_a_page_is_filled_between_its_marks(finished):
    readme.main()
    text = (finished / "README.md").read_text(encoding="utf-8")
    assert text.startswith("top\n<!-- per_task_scores -->\n\n| a |\n\n<!-- end -->\n") and text.endswith("bottom\n")
    assert "old" not in text
    assert "| extract | 2 | 4.0 | 3.0 | 1.00 |" in text
    assert "| collate | 1 | 0.1 | 0.1 | – |" in text
    assert "| all | 3 | 4.1 | 3.0 | 1.00 |" in text
    assert (finished / "docs/demo/curve.png").read_bytes() == b"picture"
    readme.main()
    assert (finished / "README.md").read_text(encoding="utf-8") == text


def test_what_a_figure_took_is_told(finished):
    folder = finished / "results/demo/benchmarks/plot"
    folder.mkdir()
    pd.DataFrame({"s": [3.17], "max_rss": [207.1], "cpu_time": [3.04]}).to_csv(folder / "teaser.tsv", sep="\t")
    readme.main()
    assert "| `teaser` | 3.2 | 3.0 |" in (finished / "README.md").read_text(encoding="utf-8")


def test_the_index_needs_no_results(finished, monkeypatch):
    (finished / "results/demo/tables/per_task_scores.md").unlink()
    monkeypatch.setattr("sys.argv", ["readme", "--index"])
    readme.main()
    text = (finished / "README.md").read_text(encoding="utf-8")
    assert "| `teaser` | teaser | In short: " in text and "| `audit` | – | The paper's text " in text
    assert "<!-- per_task_scores -->\nold\n" in text


def test_what_is_missing_is_named(finished):
    refusal(lambda: readme.fill(PAGE, "updates", "x"), "<!-- updates -->", "put the marks back")
    (finished / "results/demo/tables/per_task_scores.md").unlink()
    with pytest.raises(SystemExit) as caught:
        readme.main()
    assert caught.value.code == 2
