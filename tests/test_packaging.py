"""What a newcomer meets first: README's commands, the CI script that repeats them, requirements, licence."""
import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && "
# Stands for python3: makes a `.venv` whose pip and python only say what they were asked to do.
FAKE_PYTHON = """#!/bin/bash
mkdir -p .venv/bin
for name in pip python; do
    printf '#!/bin/bash\\necho %s "$@"\\n[ %s = pip ] || exit ${PYTEST_RC:-0}\\n' $name $name > .venv/bin/$name
    chmod +x .venv/bin/$name
done
"""


def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {normalised(r.name): r for r in parsed}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages() -> set[str]:
    """Distributions that our own files import, wherever in a file the import stands."""
    files = [*ROOT.glob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    modules = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    modules -= set(sys.stdlib_module_names) | {"tools", "tests"}
    providers = metadata.packages_distributions()
    return {normalised(providers[module][0]) for module in modules if module in providers}


def test_readme_gives_one_self_contained_command_per_job():
    commands = re.findall(r"^" + re.escape(SET_UP) + r"(.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands == [
        ".venv/bin/python inference.py --cfg configs/quickstart.yaml",
        ".venv/bin/python -m pytest -q",
    ]


@pytest.mark.parametrize("exit_code", [0, 1])
def test_ci_runs_readmes_test_command_and_cleans_up(tmp_path, exit_code):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    fake = tmp_path / "bin/python3"
    fake.parent.mkdir()
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    run = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, timeout=30,
                         env={"PATH": f"{fake.parent}:/usr/bin:/bin", "PYTEST_RC": str(exit_code)})

    assert run.returncode == exit_code
    assert run.stdout.splitlines()[1:] == ["pip install -r requirements.txt", "python -m pytest -q"]
    assert not (tmp_path / ".venv").exists()


def test_every_imported_package_is_required():
    hidden = {"packaging"}  # pytest brings it, and only this file needs it
    assert imported_packages() - requirements().keys() - hidden == set()


def test_installed_versions_are_within_the_ranges():
    installed = {r.name: metadata.version(r.name) for r in requirements().values()}
    assert {n: v for n, v in installed.items() if v.split("+")[0] not in requirements()[normalised(n)].specifier} == {}


def test_every_requirement_says_what_it_is_for():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for before, line in pairwise(lines) if not line.startswith("#") and not before.startswith("#")] == []


def test_xformers_is_an_extra_that_names_its_pair():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"torch==2.10.*", "xformers==0.0.35"} <= set(project["optional-dependencies"]["xformers"])
    assert "xformers" not in requirements()


def test_licence_is_apache_2():
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
