"""The rules that keep the project what it is, read from the source itself. They need no ROS and no torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("openvla_core", "openvla_ros", "launch", "training", "scripts", "examples", "benchmarks", "test")

# The controller must outlive a crash of torch or the GPU, so what it uses may not even import torch.
WITHOUT_TORCH = (
    "openvla_core",
    *(f"openvla_core.{name}" for name in (
        "types", "errors", "config", "prompt", "action_tokenizer", "action_statistics", "conventions", "safety",
        "observation_buffer", "rate_adapter", "images", "image_processor", "image_preparation", "jpeg", "rotations",
        "card_reader", "arm_chains", "arm_kinematics", "supervisor", "supervisor_settings", "verdict", "estop",
        "pose_watch", "command_stream", "action_intake", "action_progress", "chunk_goals", "camera_watch",
    )),
    *(f"openvla_core.evaluation.{name}" for name in (
        "statistics", "results", "report", "episodes", "video", "contact_sheet",
    )),
)  # fmt: skip
ROS_PACKAGES = {"rclpy", "openvla_ros", "launch", "launch_ros", "rosidl_runtime_py"}
MESSAGE_PACKAGE = re.compile(r"^(\w+_msgs|std_srvs|\w+_interfaces|openvla_ros\.(msg|srv|action))(\.|$)")
MESSAGE_FIELDS = {"header", "stamp", "nanosec", "frame_id", "orientation"}
# Of drivers of single robots, and not on every machine. The backend that needs one loads it when it is chosen and fills
# its few fields itself: a conversion next to the others would make all of them depend on what is installed.
ROBOT_PACKAGES = ("control_msgs", "franka_msgs", "interbotix_xs_msgs", "moveit_msgs")


def sources(*folders: str) -> list[Path]:
    """Every Python file of these folders, the extension-less scripts included."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in files if path.suffix == ".py" or _is_python_script(path))


def _is_python_script(path: Path) -> bool:
    return not path.suffix and path.open("rb").readline().startswith(b"#!") and b"python" in path.open("rb").readline()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Full names of what a file imports, `from a import b` as a.b. Imports for type checkers only are left out."""
    for node in _nodes_that_run(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _nodes_that_run(child)


def named(paths: list[Path]) -> list:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def test_core_never_imports_ros():
    for path in sources("openvla_core"):
        for name in imports(parse(path)):
            assert name.split(".")[0] not in ROS_PACKAGES, f"{path.relative_to(ROOT)} imports {name}"
            assert not MESSAGE_PACKAGE.match(name), f"{path.relative_to(ROOT)} imports the message {name}"


def test_numpy_only_modules_import_without_torch():
    check = "__import__(name); assert 'torch' not in sys.modules, name"
    program = f"import sys\nfor name in {WITHOUT_TORCH!r}: {check}"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["controller_node", "sim_node", "demo"])
def test_process_reaches_no_torch_through_any_import(name):
    """Follows every import, also those inside functions, from one module through the project."""
    seen: set[str] = set()
    waiting = [f"openvla_ros.{name}"]
    while waiting:
        current = waiting.pop()
        path = _source_of(current)
        if current in seen or path is None:
            assert current.split(".")[0] not in ("torch", "transformers"), f"openvla_ros.{name} reaches {current}"
            continue
        seen.add(current)
        waiting += imports(parse(path), module_name(path)) if current != "openvla_core" else []
        waiting += [current.rpartition(".")[0]]
    assert len(seen) > 2


def _source_of(name: str) -> Path | None:
    """The file a dotted name lives in: a module, a package, or the module that defines the last part."""
    for dotted in (name, name.rpartition(".")[0]):
        base = ROOT.joinpath(*dotted.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if dotted and path.is_file():
                return path
    return None


def test_only_topics_imports_generated_messages():
    for path in sources("openvla_ros"):
        if path.name != "topics.py":
            messages = [name for name in imports(parse(path)) if MESSAGE_PACKAGE.match(name)]
            assert not messages, f"{path.relative_to(ROOT)} imports {messages}; take them from openvla_ros.topics"


def test_robot_packages_are_loaded_by_backends_when_they_are_chosen():
    """Never imported at the top of a module: `load`, in a function, says what to install when one is missing."""
    named: dict[str, set[str]] = {package: set() for package in ROBOT_PACKAGES}
    for path in sources("openvla_ros", "openvla_core"):
        tree = parse(path)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "interface_packages.load":
                package = ast.literal_eval(call.args[0]).split(".")[0]
                assert path.parent.name == "backends", f"{path.relative_to(ROOT)} loads {package}"
                named[package].add(path.stem)
        at_import = [
            node for top in tree.body if not isinstance(top, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(top)
        ]
        assert not any(isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load") for node in at_import)
    assert all(named.values()), f"no backend uses {[package for package, users in named.items() if not users]}"


def test_only_conversions_touch_message_headers():
    for path in sources("openvla_ros"):
        if path.parent.name != "conversions":
            for node in ast.walk(parse(path)):
                touched = isinstance(node, ast.Attribute) and node.attr in MESSAGE_FIELDS
                assert not touched, f"{path.relative_to(ROOT)}:{node.lineno} touches .{node.attr}"


def test_nodes_do_not_import_each_other():
    nodes = sorted((ROOT / "openvla_ros").glob("*_node.py"))
    assert len(nodes) >= 3
    for path in nodes:
        others = [other.stem for other in nodes if other != path]
        found = [name for name in imports(parse(path)) if set(name.split(".")) & set(others)]
        assert not found, f"{path.name} imports {found}"


@pytest.mark.parametrize("path", named(sources("openvla_core", "openvla_ros", "launch", "training")))
def test_importing_has_no_effects(path):
    """At the top of a module: imports, definitions and constants; a call there would run at import."""
    for node in parse(path).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} runs at import: {ast.unparse(node)}"
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                assert all(isinstance(name, ast.Name) for name in names), f"line {node.lineno} changes something else"
        runs = (ast.For, ast.While, ast.With, ast.Delete, ast.Raise, ast.Assert)
        assert not isinstance(node, runs), f"line {node.lineno}"


def test_one_place_writes_the_prompt():
    """Training, evaluation and the policy node share prompt.py; a second copy of the sentence would drift."""
    holders = {
        path.relative_to(ROOT).as_posix()
        for path in sources("openvla_core", "openvla_ros", "training")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and "What action should the robot take" in str(node.value)
    }
    assert holders == {"openvla_core/prompt.py"}


@pytest.mark.parametrize("folder", ["launch", "config", "msg", "test", "training"])
def test_folder_is_no_python_package(folder):
    """An __init__.py would shadow ROS's `launch` or the standard library's `test`."""
    assert not list((ROOT / folder).rglob("__init__.py"))


@pytest.mark.parametrize("path", named([*sources(*CODE_FOLDERS), ROOT / "setup.py"]))
def test_nothing_given_can_run_code(path):
    """No unpickling, no code from a checkpoint, no shell: files and sentences are data."""
    tree = parse(path)
    unpicklers = {"pickle", "cPickle", "dill", "joblib", "shelve"}
    assert not unpicklers & {name.split(".")[0] for name in imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            where = f"line {node.lineno}: {called}"
            assert called not in ("eval", "exec", "yaml.load", "os.system", "os.popen"), where
            if called == "torch.load":
                # The offline converter alone reads such files, and only as data.
                assert path.name in ("weight_source.py", "test_convert.py"), where
                assert "weights_only=True" in [ast.unparse(keyword) for keyword in node.keywords], where
            for keyword in node.keywords:
                if keyword.arg in ("shell", "trust_remote_code", "allow_pickle"):
                    assert ast.unparse(keyword.value) == "False", f"{where} with {keyword.arg}"


@pytest.mark.parametrize("path", named(sources("openvla_core", "openvla_ros")))
def test_promised_names_exist(path):
    """Every name in __all__ is defined or imported in that module."""
    tree = parse(path)
    promised = [node.value for node in tree.body if isinstance(node, ast.Assign) and _assigns(node, "__all__")]
    if promised:
        known = {getattr(node, "name", None) or getattr(node, "id", None) for node in ast.walk(tree)}
        known |= {node.asname for node in ast.walk(tree) if isinstance(node, ast.alias)}
        assert set(ast.literal_eval(promised[0])) <= known


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def test_paths_in_the_readme_exist():
    """The tree and every file the README names are really there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    top = "|".join(re.escape(folder) for folder in (*CODE_FOLDERS, "config", "msg", "docs"))
    # openvla_ros/msg/Status is how ROS names the type that msg/Status.msg defines.
    text = re.sub(r"openvla_ros/(msg/\w+)", r"\1.msg", text)
    named_paths = set(re.findall(rf"(?<![\w/.~-])((?:{top})/[\w./-]*[\w/])", text))
    assert named_paths, "the README names no file of the project"
    missing = sorted(path for path in named_paths | _tree_paths(text) if not (ROOT / path).exists())
    assert not missing, f"README.md names what does not exist: {missing}"


def _tree_paths(text: str) -> set[str]:
    """Paths of the indented tree: the fenced block whose lines begin with folders of this project."""
    paths: set[str] = set()
    for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL):
        lines = [line for line in block.splitlines() if line.strip()]
        if not any(line.startswith("openvla_core/") for line in lines):
            continue
        folder = ""
        for line in lines:
            word = line.split()[0]
            if line[0] not in " \t":
                folder = word if word.endswith("/") else ""
                paths.add(word.rstrip("/"))
            elif word.endswith((".py", "/", ".yaml", ".md", ".msg")):
                paths.add(folder + word.rstrip("/"))
    return paths
