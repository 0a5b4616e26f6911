"""What setup.py asks for, and what `make test-oldest` installs."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
NOT_TESTED = {"keras-hub", "ruff"}  # for one benchmark, and for the linter


def pinned():
    """Name -> version of what the oldest run installs."""
    lines = (ROOT / "tests/oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_oldest_releases_are_the_lower_bounds():
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', (ROOT / "setup.py").read_text()))
    assert pinned().keys() == bounds.keys() - NOT_TESTED
    for name, version in pinned().items():
        assert f"{version}.".startswith(f"{bounds[name]}."), name


def test_the_readme_names_them():
    names = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization", "numpy")
    row = " | ".join(pinned()[name] for name in names)
    assert f" | {row} |" in (ROOT / "README.md").read_text()
