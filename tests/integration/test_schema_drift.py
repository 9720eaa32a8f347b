"""New elements and profile generations of a whole day: counted over every document, and told where people look."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from imunizacao import pipeline
from imunizacao.models import ExtractReceipt, FlattenReceipt, RunContext
from imunizacao.reference_day import ReferenceDay
from tests.integration.conftest import DAY, DOCUMENTS
from tests.mirror.documents import expected

pytestmark = pytest.mark.servers
DAY_OF = ReferenceDay.parse(str(DAY))


def test_what_is_new_in_a_day_is_counted_over_all_documents_and_told(
    services: pipeline.Services, run_context: Callable[..., RunContext], caplog: pytest.LogCaptureFixture
) -> None:
    context = run_context("drift")
    result = pipeline.run_day(context, services)
    planted = [planned for planned in expected(7, DAY_OF.value, DOCUMENTS) if "unknown-field" in planned.traps]
    assert planted

    extracted = ExtractReceipt.from_json(services.work.get(context.prefix("extract") + "receipt.json").body)
    assert extracted.unknown_elements == {
        "Composition.campoNovo": len(planted),
        "Immunization.extension[CampoNovo]": len(planted),
    }
    flattened = FlattenReceipt.from_json(services.work.get(context.prefix("flatten") + "receipt.json").body)
    generations = {name: count for name, count in flattened.code_counts.items() if name.startswith("geração ")}
    assert set(generations) == {
        f"geração {name}" for name in ("RIA-R 2.0", "RIA-R 1.0", "RIA-C 2.0", "RIA-C 1.0", "Carga 1.0")
    }
    assert sum(generations.values()) == flattened.documents.unique
    assert flattened.unknown_profiles == {}

    counts = {
        stage: json.loads(services.work.get(f"{context.prefix('outcomes')}{stage}-1.json").body)["counts"]
        for stage in ("extract", "flatten")
    }
    assert (counts["extract"]["unknown_elements"], counts["flatten"]["unknown_profiles"]) == (2, 0)
    assert result.published.news == {"unknown_elements": 2}
    assert pipeline.run_note(result.published, result.validated).endswith(" · 2 campos novos")
    told = [record.getMessage() for record in caplog.records if "extract.unknown_elements" in record.getMessage()]
    assert [line.split(" path=")[1].split(" ")[0] for line in told] == sorted(extracted.unknown_elements)

    public = [services.public.get(info.key).body for info in services.public.list("v1/") if info.key.endswith(".json")]
    assert not any(b"campoNovo" in body for body in public), (
        "what depends on the walk has no place in what is published"
    )
