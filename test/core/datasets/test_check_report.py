"""What a person and a program read of a check, and how it ends."""

import copy
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import bag_tools as tools
import numpy as np
import pytest

from openvla_core.datasets.bags.reader import BagSource, ReadingSettings
from openvla_core.datasets.check.report_html import html
from openvla_core.datasets.check.run import check_bags, check_episodes, main
from openvla_core.datasets.convert import convert


@pytest.fixture(scope="module")
def tapes():
    return [tools.demonstration(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def scribe():
    return tools.Scribe()


@pytest.fixture(scope="module")
def clean(tapes, scribe, tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "clean"
    for tape in tapes:
        scribe.write(tape, root)
    return root


@pytest.fixture(scope="module")
def faulty(tapes, scribe, tmp_path_factory):
    """A jump of the tool (an error), a failure (a warning), and a name that would be markup."""
    root = tmp_path_factory.mktemp("sets") / "faulty"
    changed = copy.deepcopy(tapes)
    changed[1].facts |= {"outcome": "failure", "instruction": 'pick <b>up</b> & "hold"'}
    changed[2].notes[tools.POSE][100].value = changed[2].notes[tools.POSE][100].value + [0.15, 0, 0, 0, 0, 0, 0]
    for tape in changed:
        scribe.write(tape, root)
    return root


def test_a_clean_set_ends_well(clean, capsys):
    assert main([str(clean)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_errors_end_with_a_status_of_their_own(faulty, capsys):
    assert main([str(faulty)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"error +TELEPORT +episode_0002 at 2\.0 s: 15\.\d cm", out)
    assert "FAILURE_INCLUDED (1): a failure is among the demonstrations. Leave failures out" in out


def test_warnings_alone_are_no_failure_unless_asked_for(tapes, scribe, tmp_path):
    tape = copy.deepcopy(tapes[0])
    tape.facts["outcome"] = "failure"
    scribe.write(tape, tmp_path)
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--warnings-are-errors"]) == 1


def test_nothing_to_check_is_neither_good_nor_bad(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no bags" in capsys.readouterr().err


def test_the_json_says_the_same_as_the_report(faulty, tmp_path):
    main([str(faulty), "--json", str(tmp_path / "r.json")])
    values = json.loads((tmp_path / "r.json").read_text())
    report = check_bags(faulty)
    assert [f["code"] for f in values["findings"]] == [f.code for f in report.findings]
    assert (values["episodes"], values["errors"]) == (3, report.count("error"))
    assert all(f["advice"] and f["sentence"] for f in values["findings"])


def test_limits_can_be_given(clean, tmp_path):
    (tmp_path / "limits.yaml").write_text("shortest_s: 60.0\n")
    assert main([str(clean), "--limits", str(tmp_path / "limits.yaml")]) == 1
    (tmp_path / "limits.yaml").write_text("shortest: 60.0\n")
    assert main([str(clean), "--limits", str(tmp_path / "limits.yaml")]) == 2


def test_the_page_shows_every_finding_and_needs_nothing_else(faulty):
    report = check_bags(faulty)
    page = html(report)
    for finding in report.findings:
        assert finding.code in page
    assert "<b>up</b>" not in page and "pick &lt;b&gt;up" in page
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("<img") == 15


def test_every_drawing_is_well_formed(faulty, clean):
    for root in (faulty, clean):
        drawings = re.findall(r"<svg.*?</svg>", html(check_bags(root)), re.DOTALL)
        assert len(drawings) == 6 + 2 + 3
        for drawing in drawings:
            assert "nan" not in drawing.lower()
            ElementTree.fromstring(drawing)


def test_a_short_episode_is_drawn_too(tapes, scribe, tmp_path):
    """Reaching takes less than two seconds: too little to compare picture and motion, but not to show them."""
    short = copy.deepcopy(tapes[0])
    end = short.notes[tools.CAMERA][0].arrival_ns + int(1.6 * tools.S)
    short.notes = {topic: [n for n in notes if n.arrival_ns < end] for topic, notes in short.notes.items()}
    scribe.write(short, tmp_path)
    assert "tool speed, up to" in html(check_bags(tmp_path))


def test_episodes_of_other_formats_are_checked_by_what_they_have(clean):
    episodes = list(BagSource(clean, ReadingSettings(trim_idle=False)))
    assert check_episodes("imported", episodes).findings == []
    wrong = replace(episodes[2], actions=(episodes[2].actions * [1000, 1000, 1000, 1, 1, 1, 1]).astype(np.float32))
    found = {(f.code, f.episode) for f in check_episodes("imported", [*episodes[:2], wrong]).findings}
    assert ("LABELS_MILLIMETRES", "episode_0002") in found
    assert "episode_0001" not in {name for _, name in found}


@pytest.mark.parametrize("to", ["lerobot", "rlds"])
def test_converted_data_sets_are_checked_by_the_same_command(clean, faulty, to, tmp_path, capsys):
    for recordings, status in ((clean, 0), (faulty, 1)):
        folder = tmp_path / f"{recordings.name}_{to}"
        convert(BagSource(recordings), folder, to)
        assert main([str(folder), "--warnings-are-errors"]) == status, capsys.readouterr().out
    assert {"FAILURE_INCLUDED", "OUTLIER"} <= set(capsys.readouterr().out.split())
