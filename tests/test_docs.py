"""The documentation says what is true: its flags, links, tests and failure codes. Its commands: test_snippets.py."""

import ast
import re

import pytest

from pipeline import duplicates, export, options
from pipeline.look import command as look
from tests import helpers
from tests.pages import PAGES, blocks

OWN_FLAGS = set(options.parser()._option_string_actions)
BEAM_FLAGS = set(options._beam_parser()._option_string_actions)
OF_OTHER_COMMANDS = {
    flag for module in (export, look, duplicates) for flag in module.parser()._option_string_actions
}


def test_commands_of_the_readme_parse(tmp_path):
    readme = helpers.REPO / "README.md"
    commands = [
        block.replace("\\\n", " ").strip() for block in blocks(readme, "bash") if "pipeline.main" in block
    ]
    assert commands
    for command in commands:
        flags = [part.replace("'", "") for part in command.split()[3:]]
        config, _ = options.parse(flags)
        assert config.model.model.name == "bit/m-r101x3"


def test_the_readme_starts_with_a_command_that_is_there():
    assert blocks(helpers.REPO / "README.md", "bash")[0].strip() == "./run_local.sh"
    assert (helpers.REPO / "run_local.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_flags_named_in_the_input_table_exist():
    for flag in re.findall(r"(--[a-z_]+)", (helpers.REPO / "README.md").read_text()):
        assert flag in OWN_FLAGS | BEAM_FLAGS | OF_OTHER_COMMANDS, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    for file, name in re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", page.read_text()):
        path = helpers.REPO / "tests" / file
        assert path.exists(), f"{page.name} names {file}"
        assert f"def {name}(" in path.read_text() or not name, f"{page.name} names {file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_commands_of_a_page_give_to_the_job_exist(page):
    text = re.sub(r"\\\n", " ", page.read_text())
    for command in re.findall(r"python -m pipeline\.main[^`\n]*", text):
        for flag in re.findall(r"(?<=\s)(--\w+)", command):
            assert flag in OWN_FLAGS | BEAM_FLAGS, f"{page.name}: {flag} in {command}"


def codes_in(source):
    """The codes that a module gives to ItemError, Fault and Failure, as far as they are literals."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("ItemError", "Fault", "Failure"):
            arguments = node.args[3:4] if node.func.id == "Failure" else node.args[:1]
            for argument in arguments:
                composed = {  # http_4xx and http_5xx
                    id(part)
                    for node in ast.walk(argument)
                    if isinstance(node, ast.JoinedStr)
                    for part in ast.walk(node)
                }
                for part in ast.walk(argument):
                    if (
                        isinstance(part, ast.Constant)
                        and isinstance(part.value, str)
                        and id(part) not in composed
                    ):
                        yield part.value


def test_every_failure_code_is_documented_and_every_documented_one_exists():
    sources = {path: path.read_text() for path in (helpers.REPO / "transforms").rglob("*.py")}
    used = {code for source in sources.values() for code in codes_in(source)}
    pages = [helpers.REPO / "docs" / name for name in ("failures.md", "fetching.md", "images.md")]
    tables = "\n".join(
        line for page in pages for line in page.read_text().splitlines() if line.startswith("| `")
    )
    documented = set(re.findall(r"^\| `([a-z0-9_]+)` \|", tables, re.MULTILINE))
    assert used <= documented, f"not documented: {sorted(used - documented)}"
    everything = "\n".join(sources.values())
    everything += '"http_4xx" "http_5xx"' if 'f"http_{' in everything else ""
    codes = documented - set(vars(options.FetchSettings()).keys()) - {"read", "fetch", "decode", "infer"}
    assert all(f'"{code}"' in everything for code in codes), [c for c in codes if f'"{c}"' not in everything]
