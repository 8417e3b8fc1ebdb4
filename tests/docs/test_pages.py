"""Links of the pages lead to files, and pages name no machine."""

import importlib
import re

import pytest
from pages import PAGES, ROOT, name

MADE = ("api/", "gallery/", "generated/")  # by docs/generate.py, when the site is built
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_to_files(path):
    for target in LINK.findall(path.read_text()):
        if not target.startswith(("https://", *MADE)) and f"{(path.parent / target).resolve()}".find("/gallery/") < 0:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_pages_name_no_machine(path):
    assert not re.search(r"(?<![\w.])/(home|root|work|Users|tmp)/\w", path.read_text())


def test_every_page_is_in_the_table_of_contents():
    """Sphinx warns of it, too; this is faster."""
    listed = "\n".join(path.read_text() for path in PAGES if path.stem == "index")
    for path in PAGES:
        if path.is_relative_to(ROOT / "docs") and path.stem != "index":
            assert re.search(rf"^(how-to/|results/)?{path.stem}$", listed, re.MULTILINE), name(path)


REPLACEMENTS = re.findall(r"^\| .* \| (.*) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:metarl|envs|experiments)[\w.]*)", "".join(REPLACEMENTS))))
)
def test_what_the_changelog_says_replaces_a_name_exists(name):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            found = getattr(found, parts[i - 1])
    assert found is not None
