from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import readme_tables
from benchmarks.mock_server import Script, mock_server
from forerun.bench.runs import read_runs
from forerun.bench.tables import SPECULATION, cache_pairs
from forerun.cli.main import main
from forerun.errors import ForerunError
from tests.support.tiny_checkpoints import write_tokenizer

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one dataset without and with cache, and of two concurrencies."""
    folder = tmp_path_factory.mktemp("results")
    write_tokenizer(folder, 320)
    usage = {"prompt_tokens": 40, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 30}}
    for name, clients, pause in (("math-off", 1, 0.02), ("math-on", 1, 0.002), ("four", 4, 0.002)):
        with mock_server(lambda body, pause=pause: Script("abcdef", pause=pause, usage=usage)) as mock:  # type: ignore[misc]
            words = (
                f"bench load --model m --tokenizer {folder} --base-url {mock.url} --dataset-name math "
                f"--num-concurrent-requests {clients} --results-dir {folder}/{name} --metadata scenario={name}"
            )
            assert main(words.split()) == 0
    return folder


def test_the_report_of_some_runs(results: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    assert main(["bench", "report", str(results), "--output", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "report.html", "distributions.png", "concurrency.png", "timeline-1.png", "timeline-2.png", "timeline-3.png",
        "llama70b_perf_comparison.csv", "llama70b_apc_perf_comparison.csv",
    }  # fmt: skip
    rows = list(csv.DictReader((out / "llama70b_perf_comparison.csv").open()))
    assert [row["Scenario"] for row in rows] == ["four", "math-off", "math-on"]
    for row, run in zip(rows, read_runs([str(results)]), strict=True):
        median = sorted(one["ttft_s"] for one in run.singles)
        assert float(row["TTFT (P50 in ms)"]) == pytest.approx((median[4] + median[5]) / 2 * 1000, abs=0.051)
        assert row["Cache hit rate"] == "75.0%" and row["Errors"] == "0"
    (pair,) = csv.DictReader((out / "llama70b_apc_perf_comparison.csv").open())
    before, after = (float(pair[f"TTFT (P50 in ms) {how} prefix caching"]) for how in ("without", "with"))
    assert before > after > 0 and float(pair["Improvement"][:-1]) == pytest.approx(before / after, rel=0.1)
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 5 and "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert (out / "distributions.png").read_bytes().startswith(b"\x89PNG")
    assert "| math-off |" in capsys.readouterr().out


def test_tables_need_no_matplotlib(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "report", str(results), "--output", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".csv"}
    said = capsys.readouterr().out
    assert "| math-off |" in said and "no charts, which need matplotlib: pip install 'forerun[bench]'" in said


@pytest.fixture(scope="module")
def browser() -> list[str]:
    """The command of a browser without a window."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None and os.environ.get("FORERUN_REQUIRE_BROWSER") != "1":
        pytest.skip("needs a browser")
    assert chromium is not None, "FORERUN_REQUIRE_BROWSER=1, but there is no chromium"
    return [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]


def test_the_page_in_a_browser(results: Path, tmp_path: Path, browser: list[str]) -> None:
    out = tmp_path / "out"
    assert main(["bench", "report", str(results), "--output", str(out)]) == 0
    command = browser
    done = subprocess.run([*command, f"file://{out}/report.html"], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("<svg") == 5 and "CONSOLE" not in done.stderr
    shot = tmp_path / "page.png"
    subprocess.run(
        [*command[:-1], f"--screenshot={shot}", f"file://{out}/report.html"], capture_output=True, timeout=120
    )
    assert shot.stat().st_size > 10_000


MEASURED = """<iframe width="{width}" srcdoc="{page}"></iframe><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument
  const widths = name => [...page.querySelectorAll(name)].map(one => one.clientWidth)
  document.title = JSON.stringify([page.documentElement.scrollWidth, widths("table"), widths("figure > div > svg")])
}}</script>"""


@pytest.mark.parametrize("width", [360, 1200])
def test_a_phone_scrolls_tables_and_charts_in_their_boxes(
    width: int, results: Path, tmp_path: Path, browser: list[str]
) -> None:
    assert main(["bench", "report", str(results), "--output", str(tmp_path)]) == 0
    framed = tmp_path / "framed.html"
    framed.write_text(MEASURED.format(width=width, page=html.escape((tmp_path / "report.html").read_text())))
    command = [*browser, "--virtual-time-budget=5000", f"file://{framed}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    page, tables, charts = json.loads(re.findall("<title>(.*?)</title>", shown)[0])
    assert page <= width and max(tables) < width and len(tables) == 2
    assert len(charts) == 5 and min(charts) >= 640


def test_llmperfs_own_files_are_read_too(results: Path, tmp_path: Path) -> None:
    for path in (results / "four").iterdir():
        value = json.loads(path.read_text())
        plain = (
            {key: value[key] for key in value if key != "forerun"}
            if isinstance(value, dict)
            else [{key: one[key] for key in one if key != "forerun"} for one in value]
        )
        (tmp_path / path.name).write_text(json.dumps(plain))
    assert main(["bench", "report", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out").glob("timeline*"))


def test_llmperfs_file_of_a_run_without_answers(results: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """It has NaN for every statistic."""
    (path,) = (results / "four").glob("*_summary.json")
    summary = {key: value for key, value in json.loads(path.read_text()).items() if key != "forerun"}
    broken = {key: float("nan") if "_s_" in key else value for key, value in summary.items()}
    (tmp_path / path.name).write_text(json.dumps(broken))
    failed = {"error_code": 500, "error_msg": "no", "ttft_s": 0}
    (tmp_path / path.name.replace("_summary", "_individual_responses")).write_text(json.dumps([failed]))
    assert main(["bench", "report", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "nan" not in capsys.readouterr().out


def test_the_readmes_tables_are_written_between_its_markers(results: Path, tmp_path: Path) -> None:
    page = f"# x\n{readme_tables.BEGIN}\nold\n{readme_tables.END}\nend\n"
    runs = read_runs([str(results)])
    written = readme_tables.replaced(page, readme_tables.text(runs[:1], runs))
    assert written.startswith(f"# x\n{readme_tables.BEGIN}\n") and written.endswith(f"\n{readme_tables.END}\nend\n")
    assert "| four |" in written and "| math |" in written and "old" not in written
    assert readme_tables.replaced(written, "same") == page.replace("old", "same")
    for wrong in ("no markers", page + page):
        with pytest.raises(ForerunError, match="once"):
            readme_tables.replaced(wrong, "")
    with pytest.raises(ForerunError, match="both tutorials"):
        readme_tables.text(runs[:1], runs[:1])
    readme = Path(__file__).parents[2] / "README.md"
    assert readme_tables.replaced(readme.read_text("utf-8"), "").count(readme_tables.BEGIN) == 1


LABELS = ("$\\frac$", "a$^$b | c", "_hidden", "=HYPERLINK(1)", "x" * 100_000, "two\nlines\x1b[31m")


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_shown_as_they_are(label: str, results: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (summary,) = shutil.copytree(results / "four", tmp_path / "four").glob("*_summary.json")
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "scenario": label}))
    assert main(["bench", "report", str(summary), "--output", str(tmp_path / "out")]) == 0
    row = capsys.readouterr().out.splitlines()[4]
    assert row.count("|") - row.count("\\|") == 12 and "\x1b" not in row
    table = (tmp_path / "out" / SPECULATION).read_text().splitlines()
    assert len(table) == 2 and not table[1].startswith(("=", '"='))


def test_runs_of_different_load_are_no_pair(results: Path) -> None:
    runs = read_runs([str(results)])
    pairs = cache_pairs(runs)
    assert pairs
    other = replace(pairs[0][0], summary={**pairs[0][0].summary, "num_concurrent_requests": 77})
    assert cache_pairs([other, pairs[0][1]]) == []


def test_the_file_that_is_wrong_is_named(results: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    copied = shutil.copytree(results, tmp_path / "copied")
    summaries = sorted(copied.glob("*/*_summary.json"))
    found = json.loads(summaries[0].read_text())
    summaries[0].write_text(json.dumps({**found, "scenario": "the culprit", "results_num_requests_started": 10**400}))
    assert main(["bench", "report", str(copied), "--output", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the culprit: not as forerun bench load writes results") and err.count("\n") == 1


def test_pairs_need_both_sides(results: Path) -> None:
    runs = read_runs([str(results)])
    assert [(a.label, b.label) for a, b in cache_pairs(runs)] == [("math-off", "math-on")]
    assert cache_pairs(runs[:2]) == []


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "1e999"])
def test_files_that_are_no_results(text: str, tmp_path: Path) -> None:
    (tmp_path / "x_summary.json").write_text(text)
    (tmp_path / "x_individual_responses.json").write_text("[]")
    with pytest.raises(ForerunError) as caught:
        read_runs([str(tmp_path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [{"ttft_s": None}, {"sent_s": "soon"}, {"latency_s": 10**400}, {"command": [5]}, {"server": [1]}],
)
def test_results_that_were_changed_are_one_line(part: dict[str, object], results: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    for path in (results / "four").iterdir():
        value = json.loads(path.read_text())
        for one in value if isinstance(value, list) else [value]:
            one["forerun"] |= part
        (tmp_path / path.name).write_text(json.dumps(value))
    assert main(["bench", "report", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "not as forerun bench load writes results" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_paths_without_results(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "x.json"):
        with pytest.raises(ForerunError):
            read_runs([str(path)])
