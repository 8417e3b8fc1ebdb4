"""The README is short, shows something, and its two commands come first."""

import re

from pages import README, ROOT, blocks

TEXT = README.read_text()


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150 and len(TEXT.encode()) <= 9_000


def test_the_first_two_blocks_install_train_and_test():
    first, second = blocks(README, "bash")[:2]
    assert "-c constraints.txt -e '.[test]'" in first and first.rstrip().endswith("python -m experiments.lpg")
    assert second == "python -m pytest\n"


def test_it_has_one_picture_and_it_is_small():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", TEXT)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG") and (ROOT / picture).stat().st_size < 80_000
