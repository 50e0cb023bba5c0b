"""What the project promises about itself: pins, sizes, import directions, safe loading, links, numbered deviations."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CODE = sorted(file for folder in ("pwm", "baselines", "workflows") for file in (ROOT / folder).rglob("*.py"))
PYTHON = [*CODE, *sorted((ROOT / "tests").rglob("*.py"))]
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in CODE}
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CUDA_LIBRARIES = ("nvidia-", "cuda-", "triton")  # torch's, on machines for which its CUDA build is taken
PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def relative(path: Path) -> str:
    """The path from the repository's root."""
    return str(path.relative_to(ROOT))


def parse(file: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


def pins(lines: list[str]) -> dict[str, str]:
    """`name==version` lines as {canonical name: version}; anything but an exact pin fails."""
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line) for line in lines]
    assert None not in found, f"not an exact pin: {lines[found.index(None)]!r}"
    names = [canonicalize_name(match[1]) for match in found]
    assert len(names) == len(set(names))
    return {name: match[2] for name, match in zip(names, found, strict=True)}


def project() -> dict:
    """The project's own table in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def direct_pins() -> dict[str, str]:
    """The direct dependencies, those of development included."""
    return pins([*project()["dependencies"], *project()["optional-dependencies"]["dev"]])


def lock() -> dict[str, str]:
    """All packages of the environment."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if not line.startswith("#")])


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Dotted names that import statements among `nodes` may load; `from a import b` gives a and a.b."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def all_imports(file: Path) -> set[str]:
    """What a file imports anywhere in it, in functions too."""
    return imports(ast.walk(parse(file)))


def loaded_with(name: str) -> set[str]:
    """Everything that importing the module `name` loads: the project's modules in full, others by name."""
    seen, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            todo += imports(parse(MODULES[module]).body)  # what functions import later is not loaded
            todo += [module.rpartition(".")[0]] if "." in module else []
    return seen


# Pins


def test_direct_pins_agree_everywhere() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = [line for line in conda[-1]["pip"] if not line.startswith("-c ")]
    direct = direct_pins()
    assert pins(by_pip) == direct
    assert direct.items() <= lock().items()
    assert conda[0] == "python=3.11"
    assert "3.11" in Requirement(f"python{project()['requires-python']}").specifier


def test_lock_is_what_is_installed() -> None:
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in lock()}
    assert installed == lock()


def test_lock_is_closed_and_holds_nothing_else() -> None:
    locked = lock()
    seen, todo = set(), [Requirement(name) for name in direct_pins()]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(CUDA_LIBRARIES):
            continue
        assert name in locked, f"{requirement} is not in requirements.lock"
        assert locked[name] in requirement.specifier, f"{requirement} against {locked[name]}"
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            extras = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    assert {name for name, _ in seen} == set(locked)


def test_every_library_the_code_imports_is_a_direct_dependency() -> None:
    distributions = importlib.metadata.packages_distributions()
    tops = {name.partition(".")[0] for file in CODE for name in all_imports(file)}
    outside = tops - set(sys.stdlib_module_names) - {"pwm", "baselines", "workflows"}
    declared = set(pins(project()["dependencies"]))
    for name in sorted(outside):
        owners = {canonicalize_name(owner) for owner in distributions.get(name, [])}
        assert owners & declared, f"{name} is imported and no dependency in pyproject.toml"


def test_no_address_in_the_environment_files() -> None:
    for name in ("requirements.lock", "pyproject.toml"):
        assert not re.search(r"https?://|file:|--(extra-)?index|--find-links|--hash", (ROOT / name).read_text()), name


# Sizes


def test_files_and_functions_are_short() -> None:
    limits = dict.fromkeys(PYTHON, 350) | dict.fromkeys((ROOT / "workflows").rglob("*.smk"), 150)
    limits[ROOT / "Snakefile"] = 60
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in limits}
    assert {relative(file): lines[file] for file in limits if lines[file] > limits[file]} == {}
    functions = {
        f"{relative(file)}: {node.name}": node.end_lineno - node.lineno + 1
        for file in PYTHON
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in functions.items() if length > 60} == {}


# Imports run one way


def test_importing_pwm_is_cheap() -> None:
    heavy = {"torch", "mujoco", "pandas", "matplotlib", "numpy", "gymnasium"}
    program = f"import sys, pwm; print(*({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def offenders(folder: str, forbidden: str) -> dict[str, set[str]]:
    """Files below `folder` that import, anywhere in them, a module that the pattern matches."""
    files = {file: all_imports(file) for file in CODE if file.is_relative_to(ROOT / folder)}
    assert files
    found = {relative(file): {n for n in names if re.fullmatch(forbidden, n)} for file, names in files.items()}
    return {file: names for file, names in found.items() if names}


def test_imports_run_one_way() -> None:
    assert offenders("pwm", r"(baselines|workflows)\b.*") == {}
    assert offenders("baselines", r"(baselines|workflows)\b.*") == {}  # so no baseline imports another
    assert offenders("pwm/nn", r"(pwm\.(?!compiled\b|config\b|errors\b|nn\b)|baselines|workflows).*") == {}


def test_figures_and_tables_need_no_torch() -> None:
    heavy = {"torch", "mujoco", "gymnasium", "stable_baselines3", "baselines"}
    scripts = [name for name in MODULES if name.startswith(("workflows.figures.", "workflows.tables."))]
    assert scripts
    for name in scripts:
        loaded = loaded_with(name) | all_imports(MODULES[name])
        assert not heavy & {module.partition(".")[0] for module in loaded}, name


# Nothing is unpickled


def unsafe_loads(tree: ast.Module) -> list[str]:
    """Ways to load a pickle that the code uses."""
    found = sorted({name.partition(".")[0] for name in imports(ast.walk(tree))} & PICKLING)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            found += [alias.name for alias in node.names if alias.name == "load"]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(called)
        if called.endswith("read_pickle") or keywords.get("allow_pickle", "False") != "False":
            found.append(called)
    return found


def test_no_pickle_is_loaded() -> None:
    assert {relative(file): unsafe_loads(parse(file)) for file in CODE if unsafe_loads(parse(file))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "from torch import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
    ],
)
def test_a_pickle_would_be_noticed(line: str) -> None:
    assert len(unsafe_loads(ast.parse(line))) == 1


# Documents


@pytest.mark.parametrize("folder", ["figures", "tables"])
def test_the_index_of_figures_and_tables_is_current(folder: str) -> None:
    """Every script has its row in the README, with the first line of its own description."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^\| `workflows/{folder}/` .*\n\|---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", section, flags=re.MULTILINE)
    scripts = [file for file in CODE if file.parent == ROOT / "workflows" / folder and not file.stem.startswith("_")]
    scripts = [file for file in scripts if file.stem not in ("style", "common")]
    assert len(rows) == len(scripts) == section.count("\n")
    assert dict(rows) == {file.stem: ast.get_docstring(parse(file)).splitlines()[0] for file in scripts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_resolve(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(document: Path) -> set[str]:
    """The anchors that a page of this Markdown file has on code hosts."""
    headings = re.findall(r"^#+ +(.*?) *$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_documents_exist_and_agree() -> None:
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "docs/deviations.md"):
        assert (ROOT / name).stat().st_size > 0, name
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project()["version"], project()["license"])
    authors = [author["family-names"] for author in citation["references"][0]["authors"]]
    assert authors == ["Georgiev", "Giridhar", "Hansen", "Garg"]


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:^|^ {4}|`)make ([a-z]+)", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(named) <= targets, relative(document)


def test_deviations_in_code_and_document_agree() -> None:
    in_code: dict[str, set[str]] = {}
    code = [*CODE, ROOT / "Snakefile", *(ROOT / "workflows").rglob("*.smk"), *(ROOT / "workflows").rglob("*.yaml")]
    for file in [*code, *(ROOT / "pwm").rglob("*.xml")]:
        for number in re.findall(r"\bDeviation (D\d+):", file.read_text(encoding="utf-8")):
            in_code.setdefault(number, set()).add(relative(file))
    rows = re.findall(r"^\| (D\d+) \| ([^|]+) \|(.+)\|$", (ROOT / "docs/deviations.md").read_text(), flags=re.MULTILINE)
    numbers = [number for number, _, _ in rows]
    assert numbers == [f"D{i + 1}" for i in range(len(rows))]
    assert {number: set(re.findall(r"`([^`]+)`", where)) for number, where, _ in rows} == in_code
    assert all(len(cells.split("|")) == 4 and all(map(str.strip, cells.split("|"))) for _, _, cells in rows)
