"""What the README shows runs as written."""

import pkgutil
import re
from pathlib import Path

import experiments

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_of_the_library_run(capsys):
    """One after the other, as in a notebook."""
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    assert names["rule"].objective and names["adafac"].update
    train_return, final_return = map(float, capsys.readouterr().out.split())
    assert train_return > 0.0 and final_return == final_return


def test_the_commands_name_what_exists():
    """And everything that is a command is named."""
    named = set(re.findall(r"python -m experiments\.(\w+)", README))
    modules = {found.name for found in pkgutil.iter_modules(experiments.__path__)}
    sources = {name: (Path(experiments.__path__[0]) / f"{name}.py").read_text() for name in modules}
    assert named == {name for name, source in sources.items() if '\nif __name__ == "__main__"' in source}
    assert "\npython -m pytest\n" in README and "-c constraints.txt -e '.[test]'" in README
