"""The product's own publish and reconcile over all interleavings: the invariants of the model hold, and would be missed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from imunizacao.manifests import Head
from imunizacao.models import PublishInputs
from imunizacao.storage import ObjectStore
from tests.protocol.explorer import Report, Writer
from tests.protocol.model import BAD
from tests.protocol.product import CATALOG, Product


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """Four contents that are in the bucket; steps at the catalog are not walked."""
    return Product(tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def with_catalog(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """The same, with the catalog."""
    return Product(tmp_path_factory.mktemp("product"), catalog=True)


def _older_extract(inputs: PublishInputs, head: Head, latest: datetime) -> bool:
    """The fence without references."""
    newest = max(datetime.fromisoformat(entry.data_through) for entry in head.history)
    return datetime.fromisoformat(inputs.extract.extracted_at) < newest


def _scene(product: Product, name: str) -> tuple[list[Writer], dict[str, bytes]]:
    """Writers, and what is there before."""
    first = ("a", 1)
    match name:
        case "older and newer":
            return [product.publisher("x", "a", 1), product.publisher("y", "b", 2)], {}
        case "same content":
            return [product.publisher("x", "a", 1), product.publisher("y", "a", 2)], {}
        case "two remakes":
            writers = [product.publisher("x", "b", 1), product.publisher("y", "c", 1, cnes="202603")]
            return writers, product.before(first)
        case "good and bad":
            return [product.publisher("x", "b", 2), product.publisher("y", BAD, 3)], product.before(first)
        case "run and withdrawal":
            return [product.publisher("x", "b", 2), product.person("person")], product.before(first)
        case "bad return":
            writers = [product.publisher("x", BAD, 2, reason="restore"), product.publisher("y", "b", 3)]
            return writers, product.before(first, "person")
        case "three contents":
            return [product.publisher(*run) for run in (("x", "a", 1), ("y", "b", 2), ("z", "c", 3))], {}
    raise LookupError(name)


def _require_clean(report: Report, name: str) -> None:
    print(f"{name}: {report}")
    assert not report.violation, str(report)
    assert report.finals > 0


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("same content", 0),
        ("run and withdrawal", 0),
        ("older and newer", 0),
        pytest.param("two remakes", 0, marks=pytest.mark.slow),
        pytest.param("run and withdrawal", 1, marks=pytest.mark.slow),
        pytest.param("good and bad", 0, marks=pytest.mark.slow),
        pytest.param("same content", 1, marks=pytest.mark.slow),
        pytest.param("bad return", 0, marks=pytest.mark.slow),
        pytest.param("older and newer", 1, marks=pytest.mark.slow),
        pytest.param("good and bad", 1, marks=pytest.mark.slow),
        pytest.param("bad return", 1, marks=pytest.mark.slow),
        pytest.param("same content", 2, marks=pytest.mark.slow),
        pytest.param("run and withdrawal", 2, marks=pytest.mark.slow),
        pytest.param("three contents", 0, marks=pytest.mark.slow),
    ],
)
def test_runs_never_break_a_promise_whatever_their_order(product: Product, name: str, faults: int) -> None:
    """`faults`: deaths and lost responses, over both runs. A task that is red is run once more in any case."""
    writers, stored = _scene(product, name)
    _require_clean(product.walk(*writers, stored=stored, faults=faults), f"{name}, {faults} faults")


@pytest.mark.slow
def test_the_catalog_ends_as_the_month_index(with_catalog: Product) -> None:
    writers, stored = _scene(with_catalog, "same content")
    _require_clean(with_catalog.walk(*writers, stored=stored, faults=0), "catalog")


def test_a_writer_that_slept_does_not_take_a_later_state_of_the_catalog_for_the_one_it_read(
    with_catalog: Product,
) -> None:
    """Revision 3 has the doses of revision 1 again: without `revisions` the catalog would have the ETag of revision 1 again."""
    runs = [with_catalog.publisher("x", "b", 2), with_catalog.publisher("y", "a", 3)]
    only_publish = [Writer(run.name, run.stages[:1]) for run in runs]
    report = with_catalog.walk(*only_publish, stored=with_catalog.before(("a", 1)), faults=0)
    _require_clean(report, CATALOG)


@pytest.mark.parametrize(
    ("name", "target", "instead", "sin"),
    [
        (
            "good and bad",
            "imunizacao.publish._is_older",
            lambda inputs, head, latest: False,
            "older over newer",
        ),
        ("two remakes", "imunizacao.publish._is_older", _older_extract, "older over newer"),
        ("run and withdrawal", "imunizacao.manifests.Head.withdrawn_by_person", False, "published although withdrawn"),
        ("older and newer", "imunizacao.reconcile.follow_head", lambda public, day: None, "judged bad"),
        ("bad return", "imunizacao.reconcile._last_good", None, "brought back what a person withdrew"),
    ],
)
def test_the_product_without_one_of_its_rules_is_found_guilty(
    product: Product, name: str, target: str, instead: Any, sin: str
) -> None:
    writers, stored = _scene(product, name)
    with mock.patch(target, _any_good if instead is None else instead):
        report = product.walk(*writers, stored=stored, faults=0)
    print(f"without {target}: {report}")
    assert sin in report.violation, str(report)


def _any_good(history: list[dict[str, Any]], bad: dict[str, Any], purged: set[str]) -> dict[str, Any] | None:
    good = (entry for entry in reversed(history) if entry["path"] and entry["contentId"] != bad["contentId"])
    return next((entry for entry in good if entry.get("reconciliation", {}).get("verdict") == "ok"), None)


def test_a_head_that_is_written_without_a_condition_is_refused_by_the_walk(product: Product) -> None:
    """That the walk sees every write of the product to a key that runs share."""

    def careless(store: ObjectStore, key: str, decide: Any, **options: Any) -> Any:
        stored = store.get_or_none(key)
        body, answer = decide(stored.body if stored else None)
        if body is not None:
            store.put(key, body)
        return answer

    writers, stored = _scene(product, "older and newer")
    with mock.patch("imunizacao.publish.swap", careless):
        with pytest.raises(AssertionError, match="without a condition"):
            product.walk(*writers, stored=stored, faults=0)


def test_files_of_a_content_are_written_once(tmp_path: Path) -> None:
    """The store of the walk refuses to overwrite what is not shared: the scenes above would fail."""
    product = Product(tmp_path)
    key = next(key for key in product.common if key.endswith(".csv"))
    bucket = product._bucket(mock.Mock())
    bucket.put(key, product.common[key])
    with pytest.raises(AssertionError, match="was overwritten"):
        bucket.put(key, b"other")
