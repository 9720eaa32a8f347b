"""Row 4: bodies that are cut, damaged, or something else with status 200. Figure: 0 partial pages accepted."""

from __future__ import annotations

import pytest

from imunizacao.errors import MirrorUnavailable, MirrorUnreadable
from tests.faults.support import Stage

pytestmark = pytest.mark.servers
KINDS = [
    "truncated:{}",
    "html-200:{}",
    "wrong-type:{}",
    "wrong-length:{}:more",
    "wrong-length:{}:less",
    "gzip-broken:{}",
]
NO_PAGE = r"(?i)slice \S+Z/\S+Z page {page} 3 times with something that is no page"


@pytest.mark.parametrize("page", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_page_is_asked_for_again_and_its_broken_form_is_not_kept(stage: Stage, kind: str, page: int) -> None:
    stage.simulator.play(f"{kind.format(page)}:2")
    receipt = stage.whole().receipt
    assert receipt.retries >= 2
    assert receipt.fetched == receipt.announced


@pytest.mark.parametrize("page", [1, 2, 8])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith("more")])
def test_a_page_that_stays_broken_fails_the_day_by_name_after_three_tries(stage: Stage, kind: str, page: int) -> None:
    stage.simulator.play(kind.format(page))
    error = stage.fails(MirrorUnreadable, names=NO_PAGE.format(page=page))
    assert "Volte mais tarde" not in str(error)
    tried = [request.address for request in stage.simulator.requests() if request.page == page]
    assert max(tried.count(address) for address in tried) == 3


def test_a_page_that_always_ends_too_early_is_told_as_a_broken_connection(stage: Stage) -> None:
    stage.simulator.play("wrong-length:2:more")
    stage.fails(MirrorUnavailable, names=r"slice \S+Z/\S+Z page 2: last status")
