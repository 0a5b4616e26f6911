"""What setup.py asks for, what is in the built distributions, and what `make test-oldest` installs."""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
NOT_TESTED = {"keras-hub", "ruff", "mypy"}  # for one benchmark, and for the linters
# Left behind by a developer's commands; none of it may be packed.
JUNK = ("build/lib/tfap/junk.py", "dist/junk.whl", "site/index.html", "tfap/__pycache__/junk.cpython-311.pyc")
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "site", "*.egg-info", "__pycache__")


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


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search("^version: (.+)$", citation, re.MULTILINE).group(1) == tfap.__version__
    assert "\nlicense: Apache-2.0\n" in citation
    cited = re.findall(r"url: (https://(?:doi|arxiv)\.org/\S+)", citation)
    assert len(cited) == 2
    for url in cited:
        assert f"({url})" in (ROOT / "README.md").read_text()


def run(arguments, folder):
    """Runs Python where only what is installed can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind, folder, into):
    """Calls the build backend of pyproject.toml as `python -m build --no-isolation` does."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run([sys.executable, "-c", code, into], folder)
    (built,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("packaging")
    source = shutil.copytree(ROOT, folder / "source", ignore=NOT_COPIED)
    for name in JUNK:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    sdist = build("sdist", source, folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return sdist, build("wheel", folder / "unpacked" / f"tfap-{tfap.__version__}", folder / "wheel")


def modules():
    package = ROOT / "tfap"
    return {str(path.relative_to(ROOT)) for path in package.rglob("*.py")} | {"tfap/py.typed"}


@pytest.mark.slow
def test_the_sdist_holds_the_package_and_nothing_else(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("tfap.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    beside = {
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "MANIFEST.in",
        "README.md",
        "pyproject.toml",
        "setup.py",
    }
    assert names - made == modules() | beside | {"docs/requirements.txt"}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(archive.read(metadata))
    described = {name for name in names if name.startswith(f"tfap-{tfap.__version__}.dist-info/")}
    assert names - described == modules()
    assert any(name.endswith("/LICENSE") for name in described)
    assert found["Version"] == tfap.__version__
    assert {"comparison", "docs", "test"} <= set(found.get_all("Provides-Extra"))


@pytest.mark.slow
def test_the_wheel_runs_the_readme_where_the_source_is_not(distributions, tmp_path):
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], tmp_path)
    python = tmp_path / "venv/bin/python"
    packages = pathlib.Path(
        run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip()
    )
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    install = ["--no-deps", "--no-index", "--no-compile", "--quiet"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *install, distributions[1]], tmp_path)

    first_block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    script = tmp_path / "readme.py"
    script.write_text(f"{first_block}\nprint(tfap.__file__)\n")
    printed = run([python, script], tmp_path)
    assert pathlib.Path(printed.splitlines()[-1]) == packages / "tfap/__init__.py"
