"""Run one stage in a process of its own and tell what it cost: `python -m tests.benchmarks.stage <stage> <state.json>`.

The state file names the servers and collects the receipts; the figures go to standard output as one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imunizacao import pipeline
from imunizacao.models import (
    ExtractReceipt,
    FlattenReceipt,
    PublishInputs,
    PublishReceipt,
    RunContext,
    SplitReceipt,
    ValidateReceipt,
)
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, Settings, mirror_settings, pseudonym_settings, storage_settings


def main(stage: str, state_file: Path) -> None:
    """Run `stage` with what the state says and add its receipt."""
    state: dict[str, Any] = json.loads(state_file.read_text())
    services = pipeline.open_services(
        Settings(
            mirror=mirror_settings(base_url=state["mirror"]),
            storage=storage_settings(**state["storage"]),
            pseudonym=pseudonym_settings(key="benchmark" * 8, key_id="bench"),
            engine=EngineSettings(threads=2, memory_limit=state["memory"], scratch_dir=Path(state["scratch"])),
        ),
        now=lambda: datetime(2026, 11, 1, tzinfo=UTC),
    )
    context = RunContext.create(
        day=ReferenceDay.parse(state["day"]), run_id=state["run_id"], code_version="benchmark-run"
    )
    receipts = state["receipts"]
    began = time.monotonic()
    if stage == "resolve_day":
        state["references"] = pipeline.resolved_json(context, pipeline.resolve_day(context, services))
    elif stage == "extract":
        receipts["extract"] = pipeline.extract(context, services).to_json()
    elif stage == "flatten":
        receipts["flatten"] = pipeline.flatten(
            context,
            services,
            extracted=ExtractReceipt.from_json(receipts["extract"]),
            references=pipeline.references_from_json(state["references"]),
        ).to_json()
    elif stage == "validate":
        receipts["validate"] = pipeline.validate(
            context, services, flattened=FlattenReceipt.from_json(receipts["flatten"])
        ).to_json()
    elif stage == "split":
        receipts["split"] = pipeline.split(
            context,
            services,
            flattened=FlattenReceipt.from_json(receipts["flatten"]),
            validated=ValidateReceipt.from_json(receipts["validate"]),
            references=pipeline.references_from_json(state["references"]),
        ).to_json()
    elif stage == "acknowledge":
        receipts["acknowledge"] = pipeline.acknowledge(
            context,
            services,
            flattened=FlattenReceipt.from_json(receipts["flatten"]),
            validated=ValidateReceipt.from_json(receipts["validate"]),
        ).to_json()
    elif stage == "publish":
        inputs = PublishInputs(
            extract=ExtractReceipt.from_json(receipts["extract"]),
            flatten=FlattenReceipt.from_json(receipts["flatten"]),
            validate=ValidateReceipt.from_json(receipts["validate"]),
            split=SplitReceipt.from_json(receipts["split"]),
        )
        receipts["publish"] = pipeline.publish(context, services, inputs=inputs).to_json()
    elif stage == "reconcile":
        published = PublishReceipt.from_json(receipts["publish"])
        receipts["reconcile"] = pipeline.reconcile(context, services, published=published).to_json()
    else:
        raise SystemExit(f"unknown stage {stage}")
    wall = time.monotonic() - began
    state_file.write_text(json.dumps(state))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu": usage.ru_utime + usage.ru_stime,
                "wall": wall,
                "peak_mb": usage.ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
