"""The pages that people read, for the tests of this folder."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "api", "generated"} & set(path.parts)]
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "README.md", *DOCS]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
