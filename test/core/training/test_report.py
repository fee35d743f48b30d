"""One page, complete in itself: curves, and answers beside what was shown."""

import base64
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from test_watchers import END, FACTS, FIGURES, sample

from openvla_core.training.card import training_card
from openvla_core.training.charts import Line, chart, nice_step
from openvla_core.training.report import report_html
from openvla_core.training.tiny_checkpoint import tiny_convention
from openvla_core.training.watchers import History

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def history(tmp_path):
    history = History(tmp_path)
    history.on_start(FACTS)
    parts = {f"l1_{name}": 0.01 for name in ("x", "y", "z", "roll", "pitch", "yaw", "gripper")}
    for step in range(10, 101, 10):
        history.on_step(step, {**FIGURES, **parts, "loss": 20.0 / step})
    history.on_validation(100, {"loss": 0.3, "accuracy": 0.75, **parts}, [sample(i) for i in range(20)])
    history.on_end({**END, "validation": {"accuracy": 0.75, "l1": 0.1}})
    return history


@pytest.fixture
def card(history):
    return training_card(history.facts, history.end, ["pick up the cube"] * 3, tiny_convention())


def test_the_page_needs_nothing_else(history, card):
    page = Page(report_html("my <lab>", card, history))
    links = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert links and all(link.startswith("data:image/png;base64,") for link in links)
    assert not [tag for tag, *_ in page.attributes if tag in ("script", "link", "iframe")]
    assert "my <lab>" in page.texts and "pick up <the> cube" in page.texts


def test_it_shows_every_curve_and_the_pictures_as_they_were(history, card):
    text = report_html("title", card, history)
    page = Page(text)
    for title in ("loss", "share of right action tokens", "L1 of x, mm", "L1 of yaw, °", "L1 of gripper"):
        assert title in page.texts
    assert text.count("<polyline class='line training'".replace("'", '"')) == 10
    assert text.count('class="dot validation"') == 9, "the validation has no l1 of its own"
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) == 12
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels[..., ::-1], sample(0)["image"])
    predicted = 1000 * sample(0)["predicted"][0]
    assert (f"{predicted:.1f}" if abs(predicted) >= 10 else f"{predicted:.2f}") in page.texts


def test_a_training_without_validation_or_figures_has_a_page_too(tmp_path, card):
    page = Page(report_html("title", card, History(tmp_path)))
    assert "nothing measured" in page.texts and any("No episode was held out" in text for text in page.texts)


def test_the_card_tells_how_it_came_about(card):
    assert card["strategy"] == "lora" and card["steps"] == 40 and card["seeds"] == {"training": 7}
    assert card["metrics"]["validation"]["accuracy"] == 0.75
    assert card["instructions"] == ["pick up the cube"]
    assert {"python", "torch", "numpy"} <= set(card["versions"])


def test_numbers_that_are_not_finite_leave_a_gap():
    text = chart("loss", [Line("training", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])])
    (points,) = re.findall(r'points="([^"]*)"', text)
    assert len(points.split()) == 2 and "nan" not in text and "inf" not in text


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [5.0, 5.0], [-1e-9, 1e9], [1e-12, 2e-12], [-3.0, -1.0]])
def test_any_values_stay_inside_the_chart(values):
    text = chart("a & b", [Line("training", list(enumerate(values)), dots=True)])
    Page(text)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([^"]*)" cy="([^"]*)"', text)]
    assert len(places) == len(values)
    assert all(0 <= x <= 420 and 0 <= y <= 220 for x, y in places)


@pytest.mark.parametrize(("raw", "step"), [(1.0, 1.0), (1.1, 2.0), (0.03, 0.05), (700.0, 1000.0), (0.2, 0.2)])
def test_marks_are_round_numbers(raw, step):
    assert nice_step(raw) == pytest.approx(step)
