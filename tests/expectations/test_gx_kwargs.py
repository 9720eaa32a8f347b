"""The arguments of every rule are those that Great Expectations looks up itself."""

from __future__ import annotations

from imunizacao import paths
from imunizacao.validate.gx import load_library
from imunizacao.validate.suites import load_suites
from tests.expectations.tables import DAY


def test_every_rule_has_the_arguments_that_the_library_gives_it() -> None:
    library = load_library()
    from great_expectations.expectations.expectation import Expectation

    from imunizacao.validate.gx_kwargs import configuration_read_once, domain_kwargs

    loaded = [
        expectation
        for suite in load_suites(paths.EXPECTATIONS).all
        for expectation in library.load_into_gx(suite, {"reference_day": str(DAY), "candidates": 3}).expectations
    ]
    assert len(loaded) > 80
    own = [(one._get_domain_kwargs(), one._get_success_kwargs(), one._get_runtime_kwargs()) for one in loaded]
    with configuration_read_once():
        assert Expectation._get_domain_kwargs is domain_kwargs
        found = [(one._get_domain_kwargs(), one._get_success_kwargs(), one._get_runtime_kwargs()) for one in loaded]
    assert found == own
    assert Expectation._get_domain_kwargs is not domain_kwargs
