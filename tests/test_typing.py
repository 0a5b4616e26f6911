"""Type hints: everything that a user calls says what it takes and what it returns."""

import inspect

import pytest

import tfap

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
CALLED = [name for name in tfap.__all__ if callable(getattr(tfap, name))]
OURS = [name for name in CALLED if getattr(tfap, name).__module__.startswith("tfap")]


@pytest.mark.parametrize("name", OURS)
def test_parameters_and_results_have_hints(name):
    thing = getattr(tfap, name)
    is_class = inspect.isclass(thing)
    signature = inspect.signature(thing.__init__ if is_class else thing)
    parameters = [p for p in signature.parameters.values() if p.name != "self" and p.kind not in VARIADIC]
    missing = [p.name for p in parameters if p.annotation is p.empty]
    if not is_class and signature.return_annotation is signature.empty:
        missing.append("return")
    assert not missing, f"tfap.{name} has no hints for {missing}"
