"""What colcon, pip and the reader of msg/ are told agrees with the source tree."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CMAKE = (ROOT / "CMakeLists.txt").read_text()
MESSAGES = sorted((ROOT / "msg").glob("*.msg"))


def test_package_xml_and_setup_py_have_the_same_name_and_version():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    setup = (ROOT / "setup.py").read_text()
    assert f'name="{package.findtext("name")}"' in setup
    assert f'version="{package.findtext("version")}"' in setup


def test_cmake_builds_every_message():
    assert re.findall(r'"(msg/\w+\.msg)"', CMAKE) == [f"msg/{path.name}" for path in MESSAGES]


def test_message_packages_of_the_tests_stay_out_of_a_users_workspace():
    """They have the names of the real ones; built beside those, they would replace them."""
    folder = ROOT / "test" / "interfaces"
    assert (folder / "COLCON_IGNORE").is_file()
    assert "test/" not in CMAKE
    for package in (path.parent for path in folder.glob("*/package.xml")):
        listed = re.findall(r'"(\w+/\w+\.\w+)"', (package / "CMakeLists.txt").read_text())
        assert sorted(listed) == sorted(f"{path.parent.name}/{path.name}" for path in package.glob("*/*")), package.name


def test_every_executable_runs_a_module_with_a_main():
    executables = re.findall(r"^install_executable\((\w+) (\w+)\)$", CMAKE, re.MULTILINE)
    assert ("policy_node", "policy_node") in executables
    for _, module in executables:
        assert "\ndef main(" in (ROOT / "openvla_ros" / f"{module}.py").read_text(), module


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_message_field_has_a_comment(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.search(r"\s# \S", line), f"{path.name}: {line}"


def test_constraints_pin_exactly():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r'[a-z0-9-]+==[0-9a-z.]+(; python_version (<|>=) "3\.\d+")?', pin), pin


def test_every_pin_lies_in_the_range_of_setup_py():
    pins = re.findall(r"^([a-z0-9-]+)==([0-9a-z.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    ranges = [
        Requirement(text)
        for text in re.findall(r'"([a-z0-9-]+(?:\[\w+\])?[>=]=[^"]+)"', (ROOT / "setup.py").read_text())
    ]
    assert {"torch", "numpy", "ros-jazzy-rclpy"} <= {wanted.name for wanted in ranges}
    for wanted in ranges:
        versions = [version for name, version in pins if name == wanted.name]
        assert versions and all(version in wanted.specifier for version in versions), f"{wanted}: {versions}"


def test_the_licence_is_apache_2_everywhere():
    assert ElementTree.parse(ROOT / "package.xml").getroot().findtext("license") == "Apache-2.0"
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_messages_come_from_the_build_and_nodes_from_the_source_tree():
    import openvla_ros
    import openvla_ros.msg

    assert Path(openvla_ros.__file__).resolve().parent == ROOT / "openvla_ros"
    assert not Path(openvla_ros.msg.__file__).resolve().is_relative_to(ROOT / "openvla_ros")
    assert {path.stem for path in MESSAGES} <= set(dir(openvla_ros.msg))
