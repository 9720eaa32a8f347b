"""Arguments of an expectation, looked up in one configuration instead of a new one for each argument.

`Expectation.configuration` of Great Expectations 1.24 makes the whole configuration anew at every access, and the library looks
up each of the ten or so arguments through it, some 1,500 times a run: 14,000 configurations and a third of the CPU time of a small day
with ninety rules. What is returned here is the same (tests/expectations/test_gx_kwargs.py compares every rule). It can go when the
library reads the configuration once per call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from great_expectations.expectations.expectation import Expectation


def domain_kwargs(self: Any) -> dict[str, Any]:
    """`Expectation._get_domain_kwargs`. (Its check for missing keys can never find one: all keys are looked up with a default.)"""
    kwargs = self.configuration.kwargs
    return {key: kwargs.get(key, self._get_default_value(key)) for key in self.domain_keys}


def success_kwargs(self: Any) -> dict[str, Any]:
    """`Expectation._get_success_kwargs`."""
    kwargs = self.configuration.kwargs
    found = {key: kwargs.get(key, self._get_default_value(key)) for key in self.success_keys}
    return {**found, **self._get_domain_kwargs()}


@contextmanager
def configuration_read_once() -> Iterator[None]:
    """Within the block, every expectation reads its configuration once per call."""
    before = Expectation._get_domain_kwargs, Expectation._get_success_kwargs
    Expectation._get_domain_kwargs, Expectation._get_success_kwargs = domain_kwargs, success_kwargs
    try:
        yield
    finally:
        Expectation._get_domain_kwargs, Expectation._get_success_kwargs = before
