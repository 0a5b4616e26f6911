"""The pages of `make docs`: every public name has an entry, and every link leads somewhere."""

import importlib.util
import operator
import pathlib
import re

import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
PAGES.append(ROOT / "benchmarks/README.md")
PUBLIC = [
    *tfap.__all__,
    *("layers.PruneByActivation", "layers.CountActivations"),
    *(f"low_rank.{name}" for name in tfap.low_rank.__all__),
]


def of_tfmot(thing):
    return getattr(thing, "__module__", "tfap").startswith("tensorflow_model_optimization")


def directives(path):
    """The objects whose docstrings mkdocstrings puts on a page."""
    return re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)


def prose(path):
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "code", text)


def anchors(path):
    """The anchors of a page, on the site and on GitHub alike: those of headings that are there once."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {slug for slug in slugs if slugs.count(slug) == 1} | set(directives(path))


def links(path):
    """`(file, anchor)` of every relative link."""
    for target in re.findall(r"\]\(([^()\s]+)\)", prose(path)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield (path.parent / file if file else path), anchor


def test_every_public_name_has_an_entry():
    """Made from its docstring, or written by hand for tfmot's own: the site is built without tfmot."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    found = [name for path in pages for name in directives(path)]
    assert len(found) == len(set(found))
    by_hand = [
        name for path in pages for name in re.findall(r"^## (tfap\.\w+)$", path.read_text(), re.MULTILINE)
    ]
    assert set(by_hand) == {f"tfap.{name}" for name in tfap.__all__ if of_tfmot(getattr(tfap, name))}
    assert {f"tfap.{name}" for name in PUBLIC} <= {*found, *by_hand}
    for name in found:
        assert operator.attrgetter(name.removeprefix("tfap."))(tfap) is not None


def test_every_page_is_in_the_navigation():
    navigation = re.search(r"^nav:\n(.+?)^\S", (ROOT / "mkdocs.yml").read_text(), re.DOTALL | re.MULTILINE)[1]
    named = re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for file, anchor in links(path):
        assert file.exists(), f"there is no {file.relative_to(ROOT)}"
        assert not anchor or anchor in anchors(file), f"{file.name} has no heading #{anchor}"


def test_links_and_anchors_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Use `a_b`, twice\n## C\n## C\n```\n# [d](d.md)\n```\n[`e`](e.md#f), `[g](g.md)`, ![](#c)\n"
    )
    assert anchors(page) == {"use-a_b-twice"}
    assert list(links(page)) == [(tmp_path / "e.md", "f"), (page, "c")]


def test_links_of_files_outside_docs():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    site_hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site_hooks)
    text = (
        "[a](docs/pruning.md#b), ![c](docs/results/d.png), [e](benchmarks/README.md), [f](LICENSE), [g](#h)"
    )
    expected = "[a](pruning.md#b), ![c](results/d.png), [e](benchmarks.md), f, [g](#h)"
    assert site_hooks.relinked(text, "README.md", "docs/index.md") == expected
    up = site_hooks.relinked("[a](../../README.md)", "docs/results/ap.md", "docs/results/ap.md")
    assert up == "[a](../index.md)"
    with pytest.raises(FileNotFoundError, match="README.md links to nowhere.md"):
        site_hooks.relinked("[a](nowhere.md)", "README.md", "docs/index.md")
