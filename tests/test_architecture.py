"""The shape of the project, held by tests: sizes, cycles, what an import costs, what the wheel holds."""

from __future__ import annotations

import ast
import importlib.metadata
import statistics
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from functools import cache
from pathlib import Path

import pytest

from registry import Registry
from tests.engine.format.adapters import P, adapter, shaped

ROOT = Path(__file__).parent.parent
ROOMS = ("registry", "engine")
FILE_CAP, FILE_MEDIAN, FUNCTION_CAP, FUNCTION_P90 = 400, 130, 60, 35
# a code file has something to say; an empty __init__.py would only pull the median down
# migrations are left out: one writes the whole schema down, and none is edited again
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path.stat().st_size > 0)


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node)
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_file_is_longer_than_the_cap():
    assert [str(path.relative_to(ROOT)) for path in SOURCES if lines_of(path) > FILE_CAP] == []


def test_half_of_the_files_are_short():
    assert statistics.median(lines_of(path) for path in SOURCES) <= FILE_MEDIAN


def test_no_function_is_longer_than_the_cap():
    assert [(name, length(node)) for name, node in functions() if length(node) > FUNCTION_CAP] == []


def test_nine_of_ten_functions_are_short():
    assert statistics.quantiles([length(node) for _, node in functions()], n=10)[8] <= FUNCTION_P90


def test_every_function_says_what_it_returns():
    assert [name for name, node in functions() if node.returns is None] == []


def test_tests_are_at_least_as_long_as_the_code():
    tests = sum(lines_of(path) for path in (ROOT / "tests").rglob("*.py"))

    assert tests >= sum(lines_of(path) for path in SOURCES)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_level_imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported: not inside functions, not under TYPE_CHECKING."""
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return found


def import_graph() -> dict[str, set[str]]:
    modules = {_module(path): path for path in SOURCES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets: set[str] = set()
        for node in _module_level_imports(tree_of(path)):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif node.module:
                targets |= {f"{node.module}.{alias.name}" for alias in node.names}
                if not all(f"{node.module}.{alias.name}" in modules for alias in node.names):
                    targets.add(node.module)
        graph[name] = (targets & modules.keys()) - {name}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules from which some chain of imports leads back to themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph[node]
        return seen

    return [name for name in graph if name in reachable(name)]


def test_no_module_imports_itself_through_others():
    assert cycles(import_graph()) == []


def test_a_cycle_would_be_seen():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def imported_by(*arguments: str, home: Path | None = None) -> set[str]:
    """The modules a fresh interpreter has imported once `python *arguments` is done."""
    code = (
        "import atexit, sys\natexit.register(lambda: print('\\n'.join(sys.modules), file=open(sys.argv.pop(1), 'w')))\n"
    )
    out = (home or Path.cwd()) / "modules.txt"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "ADAPTERS_HOME": str(home / "adapters") if home else ""}
    program = code + arguments[0]
    subprocess.run(
        [sys.executable, "-c", program, str(out), *arguments[1:]],
        check=True,
        env=environment,
        capture_output=True,
        cwd=home,
    )
    return set(out.read_text(encoding="utf-8").split())


HEAVY = {"torch", "transformers", "bitsandbytes"}
# sys.argv[1] is taken by imported_by when the interpreter ends, so the command line starts after it
COMMAND = "from registry.cli.failure import run; raise SystemExit(run(sys.argv[2:]))"


@pytest.mark.parametrize("statement", ["import registry", "import engine", "from registry import Registry"])
def test_importing_a_room_imports_no_torch(tmp_path: Path, statement: str):
    assert imported_by(statement, home=tmp_path) & HEAVY == set()


def test_help_imports_click_and_little_else(tmp_path: Path):
    modules = imported_by(COMMAND, "--help", home=tmp_path)

    assert "click" in modules
    assert (
        modules & {*HEAVY, "sqlalchemy", "alembic", "rich", "numpy", "huggingface_hub", "safetensors", "yaml"} == set()
    )


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one version, and the folder that it was pushed from; creating the schema is alembic's work."""
    home = tmp_path_factory.mktemp("used")
    factors = shaped({f"{P}q.lora_A.weight": (2, 3), f"{P}q.lora_B.weight": (4, 2)})
    adapter(home / "lora", factors)
    Registry.open(home=home / "adapters").push(home / "lora", "team/a")
    return home


UNUSED = {*HEAVY, "alembic", "rich", "huggingface_hub", "safetensors", "yaml", "obstore", "psycopg", "numpy"}
EVERYDAY = {
    "list": 107,
    "show team/a": 169,
    "pull team/a": 119,
    "which ./lora/adapter_model.safetensors": 122,
    "artifacts list": 137,
    "check team/a --for vllm": 212,
}
"""Commands, and how many modules of this project each may import: what it did when this was written and a tenth."""


@pytest.mark.parametrize("command", EVERYDAY)
def test_everyday_commands_import_what_they_use(used_home: Path, command: str):
    """And none of the libraries that only other commands need."""
    modules = imported_by(COMMAND, *command.split(), home=used_home)
    ours = {name for name in modules if name.partition(".")[0] in ("registry", "engine")}

    assert "sqlalchemy" in modules
    assert modules & UNUSED == set()
    assert len(ours) <= EVERYDAY[command], sorted(ours)


def test_a_check_of_a_folder_imports_numpy_and_no_database(used_home: Path, tmp_path: Path):
    modules = imported_by(COMMAND, "check", str(used_home / "lora"), "--for", "peft", home=tmp_path)
    ours = {name for name in modules if name.partition(".")[0] in ("registry", "engine")}

    assert modules & (UNUSED | {"sqlalchemy", "sqlite3"}) == {"numpy"}
    assert len(ours) <= 123, sorted(ours)


def test_the_console_script_is_adapters():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="adapters")

    assert [script.value for script in scripts] == ["registry.cli:main"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_the_two_rooms_and_the_migrations(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"registry", "engine"}
    assert "registry/_migrations/env.py" in names
    assert any(name.startswith("registry/_migrations/versions/") for name in names)
    assert {"registry/py.typed", "engine/py.typed"} <= set(names)


def _core_packages() -> set[str]:
    """The distributions a plain `pip install adapter-registry` brings: dependencies and theirs, without extras."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found: set[str] = set()
    waiting = [_requirement(text) for text in declared]
    while waiting:
        name = waiting.pop()
        if name not in found:
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # for another platform or Python
                continue
            found.add(name)
            waiting += [_requirement(text) for text in needs if "extra ==" not in text]
    return found


def _requirement(text: str) -> str:
    head = text.split(";", 1)[0]
    for mark in "[<>=!~ (":
        head = head.split(mark, 1)[0]
    return head.strip().lower().replace("_", "-")


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its core dependencies, linked from here; no torch, no network."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, with_pip=False, symlinks=True)
    site = next((place / "lib").glob("python3.*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    here = Path(sysconfig.get_path("purelib"))
    for name in _core_packages():
        for top in {Path(str(file)).parts[0] for file in importlib.metadata.files(name) or ()} - {".."}:
            if (here / top).exists() and not (site / top).exists():
                (site / top).symlink_to(here / top)
    return place


SMOKE = """
import json, struct, sys
from pathlib import Path
folder = Path(sys.argv[1]); folder.mkdir()
names = ["lora_A", "lora_B"]
shapes = {"lora_A": [2, 4], "lora_B": [4, 2]}
header = {}
for place, name in enumerate(names):
    key = f"base_model.model.layers.0.q_proj.{name}.weight"
    header[key] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [32 * place, 32 * place + 32]}
text = json.dumps(header).encode(); text += b" " * (-len(text) % 8)
values = struct.pack("<16f", *[0.5] * 16)
(folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values)
config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "gpt2"}
(folder / "adapter_config.json").write_text(json.dumps(config))
"""


def test_the_bare_install_works_without_torch(bare: Path, tmp_path: Path):
    """push, pull, list and show need the core alone; merge names the command that installs the rest."""
    python = bare / "bin" / "python"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ADAPTERS_HOME": str(tmp_path / "home")}

    def adapters(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "registry", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60, check=False
        )

    subprocess.run([str(python), "-c", SMOKE, str(tmp_path / "x")], check=True, env=environment)
    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, env=environment, check=False)
    assert absent.returncode == 1

    for command in (
        ("push", "./x", "t/a", "--alias", "prod"),
        ("push", "./x", "t/b"),
        ("show", "t/a@prod"),
        ("check", "./x"),
        ("pull", "t/a", "--to", "./out"),
    ):
        done = adapters(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    sent, back = ((tmp_path / side / "adapter_model.safetensors").read_bytes() for side in ("x", "out"))
    assert back == sent
    assert "t/a@1" in adapters("list").stdout
    merge = adapters("merge", "t/a", "t/b", "--into", "t/c")
    assert merge.returncode == 2
    assert "pip install 'adapter-registry[engine]'" in merge.stderr
