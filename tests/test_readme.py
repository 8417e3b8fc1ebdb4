"""What the README shows runs as written."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_of_the_library_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    train_return, final_return = map(float, capsys.readouterr().out.split())
    assert train_return > 0.0 and final_return == final_return


def test_the_commands_name_what_exists():
    from experiments import (
        agent,
        amft,
        benchmark,
        estimators,
        groove,
        horizons,
        learned_optimizer,
        lpg,
        lpo,
        scores,
        ta_lpg,
        transfer,
    )

    modules = set(re.findall(r"python -m experiments\.(\w+)", README))
    known = (
        agent,
        amft,
        benchmark,
        estimators,
        groove,
        horizons,
        learned_optimizer,
        lpg,
        lpo,
        scores,
        ta_lpg,
        transfer,
    )
    assert modules == {module.__name__.split(".")[-1] for module in known}
    assert "\npython -m pytest\n" in README and "-c constraints.txt -e '.[test]'" in README
