"""Row 24: tokens, passwords and people, in everything that leaves a task but landing itself. Figure: 0 hits."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from imunizacao.errors import PipelineError
from imunizacao.fhir.auth import Token, read_token
from imunizacao.settings import MirrorSettings
from imunizacao_airflow.notes import sentence_of
from tests.faults.support import REQUESTER_CNS, Stage
from tests.integration.extract_support import clear

pytestmark = pytest.mark.servers
PASSWORD = "s3nha-canario"
SURVIVED = [
    "http-5xx:0.3",
    "bad-utf8:2",
    "deep:200000",
    "http-429-garbage",
    "truncated:2:1",
    "nul:2",
    "drift",
    "clock-skew:300",
]
FATAL = [
    "token-never",
    "html-200:1",
    "next-foreign:2",
    "http-5xx-page:2",
    "truncated:2",
    "next-self:1",
    "lost-page:1",
    "drift-always",
]


def _some(scenarios: list[str], number: int) -> list[Any]:
    """The first of them in CI, the others with `-m slow`."""
    return [*scenarios[:number], *(pytest.param(name, marks=pytest.mark.slow) for name in scenarios[number:])]


def _persons(documents: list[dict[str, Any]]) -> set[str]:
    """Everything in documents that says who somebody is: CNS and CPF of patients and professionals, names, birth dates."""
    found: set[str] = set()
    for document in documents:
        for entry in document["entry"]:
            resource = entry["resource"]
            found |= {value for value in _values(resource) if value.isdigit() and len(value) in {11, 15}}
            if resource["resourceType"] == "Patient":
                found.add(resource["birthDate"])
                for name in resource["name"]:
                    found |= {text for text in _values(name) if len(text) > 8}
    return found


def _values(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value)


class Watch:
    """What left the task."""

    def __init__(self, stage: Stage, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._stage = stage
        self._caplog = caplog
        self._capfd = capfd

    def run(self, settings: MirrorSettings) -> str:
        """Extract and flatten the day, or fail; return every text that somebody may read afterwards."""
        texts = [repr(settings)]
        try:
            receipt = self._stage.flatten(self._stage.extract(settings))
        except PipelineError as error:
            texts += ["".join(traceback.format_exception(error)), sentence_of(error), repr(error)]
        else:
            texts.append(repr(receipt))
        for found in self._stage.work.list("v1/day="):
            texts.append(found.key)
            if found.key.endswith((".json", "pages.ndjson")):
                texts.append(self._stage.work.get(found.key).body.decode())
        return "\n".join([*texts, self._caplog.text, *self._capfd.readouterr()])


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every token that was received."""
    found: list[str] = []

    def read(*args: Any, **options: Any) -> Token:
        token = read_token(*args, **options)
        found.append(token.value)
        return token

    monkeypatch.setattr("imunizacao.fhir.auth.read_token", read)
    return found


@pytest.mark.parametrize("scenario", [*_some(SURVIVED, 3), *_some(FATAL, 3)])
def test_nothing_that_leaves_the_task_says_who_somebody_is_or_how_to_get_in(
    rnds_stage: Stage,
    tokens: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    scenario: str,
) -> None:
    persons = _persons(rnds_stage.extract(rnds_stage.rnds_settings(), run_id="who").documents())
    assert len(persons) > 100
    clear(rnds_stage.work)
    rnds_stage.simulator.play(scenario)
    with caplog.at_level(logging.DEBUG):
        left = Watch(rnds_stage, caplog, capfd).run(rnds_stage.rnds_settings())
    assert len(tokens) >= 2
    assert "event=" in left
    secrets = {REQUESTER_CNS, *tokens, *(token.rpartition(".")[2] for token in tokens)}
    assert not [secret for secret in secrets if secret in left], "a secret left the task"
    assert not [person[:3] + "…" for person in persons if person in left], "a person left the task"


@pytest.mark.parametrize(
    "scenario", _some(["next-foreign:1", "http-5xx:0.3", "http-5xx-page:2", "html-200:2", "lost-page:1"], 2)
)
def test_a_password_in_the_address_of_the_mirror_stays_there(
    stage: Stage, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], scenario: str
) -> None:
    address = stage.simulator.base_url.replace("http://", f"http://leitor:{PASSWORD}@")
    stage.simulator.play(scenario)
    settings = stage.settings(base_url=address)
    with caplog.at_level(logging.DEBUG):
        left = Watch(stage, caplog, capfd).run(settings).replace(repr(settings), "")
    assert "event=" in left
    assert PASSWORD not in left
    assert base64.b64encode(f"leitor:{PASSWORD}".encode()).decode() not in left


def test_a_password_in_the_address_is_no_part_of_the_settings_as_text(stage: Stage) -> None:
    address = stage.simulator.base_url.replace("http://", f"http://leitor:{PASSWORD}@")
    assert PASSWORD not in repr(stage.settings(base_url=address))
