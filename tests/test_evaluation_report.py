"""The report: one page that loads nothing, says what is missing, and repeats a run; the comparison; the program."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from program import ROOT, run_here
from run_folder import SHAPE, STEPS, emergence_arrays, write_run
from test_training_monitor import events

from lattice_jax.config import Config
from lattice_jax.config.overrides import with_settings
from lattice_jax.evaluation.report import viewer
from lattice_jax.evaluation.report.page import export_png, show_in_tensorboard, write_page
from lattice_jax.evaluation.report.panels import learning_panels
from lattice_jax.evaluation.report.record import read_run

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "image", "rect"}
SECTIONS = [
    *(
        "verdict",
        "learning",
        "gradients",
        "resources",
        "emergence-over-time",
        "emergence",
        "cube",
        "flow",
        "pool",
        "endurance",
        "samples",
    ),
    *("edge-cases", "alerts", "configuration", "repeat"),
]


class Page(HTMLParser):
    """Tags in their nesting, ids, addresses, and the text outside scripts."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags, self.text = [], [], [], [], []
        self.feed(source)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def panels(whole):
    return write_page([whole], whole / "report.html")[0]


@pytest.fixture(scope="module")
def source(whole, panels) -> str:
    return (whole / "report.html").read_text()


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_the_verdict_comes_first_and_everything_has_its_place(page):
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids)), "no id twice, so that figures don't borrow each other's parts"
    assert {f"#{name}" for name in SECTIONS} <= set(page.addresses)


def test_the_page_loads_nothing(source, page):
    for address in page.addresses:
        assert address.startswith(("#", "data:image/png;base64,")), address
    assert "link" not in page.tags
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", source)
    # What is left of addresses are the names of XML, which nothing opens.
    assert set(re.findall(r"https?://[^\s\"'<>)]+", source)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_text_of_the_run_is_escaped(source, page):
    assert "<script>alert" not in source
    assert "<i>held out" not in source
    text = "".join(page.text)
    for told in ("What is <script>alert(1)</script>?", "An R&D <b>joke</b>.", "by heart & <soul>", "the lattice is <level>"):
        assert told in text


def test_figures_take_the_colours_of_the_reader(source):
    figures = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(figures) > 20
    for figure in figures:
        assert not {"#24292f", "#ffffff"} & set(re.findall("#[0-9a-f]{6}", figure))
        assert "var(--" in figure
    assert "prefers-color-scheme: dark" in source


def test_every_figure_says_what_it_shows_and_names_its_axes(panels):
    for panel in panels:
        assert len(panel.text) > 12, panel.name
        assert panel.text.endswith("."), panel.name
        if panel.name.startswith("slices_"):
            continue  # maps of layers, whose sides are cells; their colours are named
        axes = panel.draw().axes[0]
        assert axes.get_xlabel(), panel.name
        forest = any(name in panel.name for name in ("verdict_", "forest_"))
        assert axes.get_ylabel() or forest, panel.name


def test_figures_show_the_numbers_of_the_record(panels):
    drawn = {panel.name: panel.draw() for panel in panels}
    layers = drawn["gradient_layers"].axes[0].images[0].get_array()
    assert np.asarray(layers) == pytest.approx(np.log10([[0.1 * (layer + 1)] * 20 for layer in range(5)]))
    front = drawn["flow_question_read"].axes[0].images[0].get_array()
    assert np.asarray(front) == pytest.approx(np.maximum(emergence_arrays()["question_read"], 0).T)
    (line,) = [line for line in drawn["learning_similarity"].axes[0].lines if len(line.get_xdata()) == 5]
    assert line.get_ydata() == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7])


@pytest.mark.parametrize(
    ("rate", "share", "told"),
    [
        (1.0, 0.0, "Training batches and"),
        (0.7, 0.0, "Training batches (with cells at rest by the mask) and"),
        (1.0, 0.5, "Training batches (before anything is added) and"),
    ],
)
def test_how_training_batches_are_answered_otherwise_is_said(whole, rate, share, told):
    settings = with_settings(Config(), {"lattice.update.rate": rate, "answer.removed_mean": share}).as_dict()
    assert learning_panels(read_run(whole)._replace(settings=settings))[0].text.startswith(told)


def test_a_run_of_an_earlier_version_lacks_later_settings(whole):
    settings = {name: values for name, values in Config().as_dict().items() if name != "answer"}
    assert learning_panels(read_run(whole)._replace(settings=settings))


def test_only_what_is_followed_by_the_same_questions_is_held_against_the_null_model_of_the_end(panels):
    followed = {panel.name: panel for panel in panels if panel.name.startswith("emergence_")}
    assert "Band: the null model (shuffled cells)" in followed["emergence_morans_i"].text
    assert "Band" not in followed["emergence_topic_selectivity"].text
    bands = {name: len(panel.draw().axes[0].patches) for name, panel in followed.items()}
    assert bands == {"emergence_morans_i": 1, "emergence_topic_selectivity": 0}


def test_recovery_is_drawn_as_the_summary_has_it(panels):
    drawn = {panel.name: panel.draw().axes[0] for panel in panels if panel.name in ("recovery", "answers_in_turn")}
    lines = [list(line.get_ydata()) for line in drawn["recovery"].lines]
    assert [0.2, 0.3, 0.5, 0.8, 0.9] in lines
    assert [1.0, 0.9, 0.8] in [[round(value, 6) for value in line.get_ydata()] for line in drawn["answers_in_turn"].lines]
    assert "half cube 50%" in next(panel.text for panel in panels if panel.name == "recovery")


def test_the_view_of_the_cube_holds_the_arrays(source):
    (text,) = re.findall(r'<script type="application/json" id="cube-data">(.*?)</script>', source, re.DOTALL)
    data = json.loads(text)
    assert (data["shape"], data["steps"], len(data["questions"])) == (list(SHAPE), STEPS + 1, 3)
    fields = {field["name"]: field for field in data["fields"]}
    of_values = ["activity", "change", "selectivity", "influence_gradient", "influence_ablation"]
    assert list(fields) == [*of_values, "topic", "response_group", "weight_group"]
    arrays = emergence_arrays()
    for name, field in fields.items():
        values = np.frombuffer(base64.b64decode(field["data"]), np.uint8).reshape(arrays[name].shape)
        restored = field["low"] + values / 255 * (field["high"] - field["low"])
        assert restored == pytest.approx(arrays[name].astype(float), abs=(field["high"] - field["low"]) / 500), name


@pytest.mark.parametrize(
    ("faces", "opposite"), [(("front", "back"), True), (("right", "left"), True), (("front", "top"), False)]
)
def test_the_view_knows_whether_the_last_layer_is_the_output_face(faces, opposite):
    assert viewer.payload(emergence_arrays() | {"faces": np.array(faces)})["last_is_output"] is opposite


def test_a_large_cube_is_shown_with_fewer_questions(monkeypatch):
    monkeypatch.setattr(viewer, "BUDGET_BYTES", 2 * (STEPS + 1) * int(np.prod(SHAPE)))
    data = viewer.payload(emergence_arrays())
    assert (len(data["questions"]), data["questions_left_out"]) == (2, 1)


def test_a_run_that_goes_on_says_what_is_to_come(tmp_path):
    folder = write_run(tmp_path / "live", whole=False)
    _, ended = write_page([folder], tmp_path / "page.html", refresh=20)
    source = (tmp_path / "page.html").read_text()
    text = " ".join("".join(Page(source).text).split())
    assert not ended
    assert '<meta http-equiv="refresh" content="20">' in source
    assert "it is at step 20 of" in text
    assert "emergence.npz is written when a run ends" in text
    assert "cube-data" not in source


def test_a_run_before_its_first_step_has_a_page(tmp_path):
    folder = write_run(tmp_path / "new", whole=False)
    (folder / "metrics.jsonl").unlink()
    write_page([folder], tmp_path / "page.html")
    assert "the adapter is trained first" in (tmp_path / "page.html").read_text()


def test_runs_are_compared(tmp_path):
    first = write_run(tmp_path / "first", similarity=0.61)
    second = write_run(tmp_path / "second<2>", similarity=0.66, config=dataclasses.replace(Config(), seed=3))
    going_on = write_run(tmp_path / "third", whole=False)
    panels, ended = write_page([first, second, going_on], tmp_path / "comparison.html")
    assert not ended
    source = (tmp_path / "comparison.html").read_text()
    page = Page(source)
    text = " ".join("".join(page.text).split())
    for told in ("0.610 [0.560, 0.660]", "0.660 [0.610, 0.710]", "20 of 200", "seed", "second<2>", "0.61 (z +15.0)"):
        assert told in text
    overlaid = next(panel for panel in panels if panel.name == "overlaid_validation_similarity").draw()
    assert len({line.get_color() for line in overlaid.axes[0].lines}) == 3


def test_runs_on_other_text_are_marked_as_such(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    write_page(folders, tmp_path / "page.html")
    assert 'class="strong"' in (tmp_path / "page.html").read_text(), "the better of two runs on the same text"
    other = json.loads((folders[1] / "summary.json").read_text()) | {"data_hash": "else"}
    (folders[1] / "summary.json").write_text(json.dumps(other))
    write_page(folders, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text()
    assert "did not read the same text" in source
    assert 'class="strong"' not in source, "no run is the better one on other text"


def test_figures_as_png_and_in_tensorboard(panels, tmp_path):
    few = [panel for panel in panels if panel.name in ("verdict_similarity", "slices_topic")]
    paths = export_png(few, tmp_path / "figures")
    assert sorted(path.name for path in paths) == ["slices_topic.png", "verdict_similarity.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    show_in_tensorboard(few, tmp_path, 20)
    (path,) = tmp_path.glob("events*")
    images = [value for event in events(path) for value in event.summary.value]
    assert [value.tag for value in images] == [f"report/{panel.name}" for panel in few]
    assert all(value.image.width > 800 for value in images)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "nowhere holds no run"),
        ((), "no run was named"),
        (("nowhere", "./nowhere"), "nowhere is named twice"),
        (("nowhere", "--watch", "--interval", "0"), "--interval is 0"),
    ],
)
def test_what_is_no_run_is_refused(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "report", *arguments) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert "fix:" in printed


@pytest.mark.parametrize(("option", "place"), [("--out", "folder"), ("--out", "file/page.html"), ("--png", "file")])
def test_what_cannot_be_written_is_refused(option, place, whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    page = () if option == "--out" else ("--out", tmp_path / "page.html")
    assert run_here(monkeypatch, "report", whole, *page, option, tmp_path / place) == 2
    assert f"give another {option}" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.glob("*.tmp"))


def test_without_its_packages_the_report_says_how_to_get_them():
    script = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from lattice_jax import run\nfrom lattice_jax.errors import InputError\nfrom pathlib import Path\n"
        "try: run.report([Path('x')], None, png=None, watch=None, console=None)\n"
        "except InputError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "jinja2 isn't installed" in printed
    assert "pip install -e '.[evaluation]'" in printed
