"""Calls of tfap in prose and tables fit its functions; blocks of code are run by test_examples.py."""

import ast
import inspect
import operator
import pathlib
import re

import keras
import pytest

import tfap

ROOT = pathlib.Path(__file__).parent.parent
# What `docs/errors.md` calls is wrong on purpose, and what it shows is tested by test_bad_input.py.
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "errors.md"]
PAGES += [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")]
# What a reader knows from around a call.
KNOWN = {"tfap": tfap, "keras": keras, "base": tfap.Magnitude(), "begin_step": 100, "end_step": 900}


def calls_in_prose(text):
    """Inline code of a page from the name of something of tfap's to the closing parenthesis."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`\n]+)`", text):
        for match in re.finditer(r"(?<![\w.])(tfap\.[\w.]+|\w+)\(", code):
            call = balanced(code, match.start(), match.end())
            if call and (match[1].startswith("tfap.") or match[1] in tfap.__all__):
                yield call


def balanced(code, start, opened):
    depth = 1
    for at in range(opened, len(code)):
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        if depth == 0:
            return code[start : at + 1]
    return None


def check(call):
    """Raises if a call names what is not there, or passes what it does not take."""
    node = ast.parse(call, mode="eval").body
    name = ast.unparse(node.func).removeprefix("tfap.")
    signature = inspect.signature(operator.attrgetter(name)(tfap))
    positional = [argument for argument in node.args if not is_ellipsis(argument)]
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    # `tfap.prune(..., criterion="magnitude")` and `strip_pruning()` leave arguments out.
    is_whole = call.startswith("tfap.") and len(positional) == len(node.args)
    (signature.bind if is_whole else signature.bind_partial)(*positional, **keywords)
    if is_whole and inspect.isclass(operator.attrgetter(name)(tfap)):
        try:
            eval(call, dict(KNOWN))
        except NameError:  # of what the reader has
            return


def is_ellipsis(node):
    return isinstance(node, ast.Constant) and node.value is ...


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_in_prose_and_tables_fit(page):
    for call in calls_in_prose(page.read_text()):
        try:
            check(call)
        except Exception as error:
            raise AssertionError(f"{page.name}: `{call}` does not run: {error}") from error


def test_wrong_calls_are_found():
    text = "| `tfap.gone(1)` | `{..., 'a': lambda s: tfap.flops(model, s)}` |\n`compact(..., silent=True)`"
    text += " `tfap.ActivationCount(side='left')`\n```python\ntfap.not_prose()\n```\n`tfap.flops(model)`"
    wrong = ["tfap.gone(1)", "tfap.flops(model, s)", "compact(..., silent=True)"]
    wrong += ["tfap.ActivationCount(side='left')"]
    assert list(calls_in_prose(text)) == [*wrong, "tfap.flops(model)"]
    for call in wrong:
        with pytest.raises((AttributeError, TypeError, ValueError)):
            check(call)
    for call in ("tfap.flops(model)", "flops()", "tfap.prune(..., criterion='magnitude')"):
        check(call)
