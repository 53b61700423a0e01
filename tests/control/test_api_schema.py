"""The OpenAPI description and the interface agree on thousands of valid and invalid requests."""

from __future__ import annotations

import re
import time
from collections import Counter
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
import schemathesis
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.db import connections
from jsonschema_rs import Draft202012Validator
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.hooks import unregister

from backups.api.reference import description
from backups.api.throttling import RATES
from backups.identity import permissions, tokens
from backups.jobs import lifecycle, submit
from backups.models import ApiToken, IndexedBackup, Job, Worker
from backups.plans import defaults
from consistency.models import Check
from tests.control.conftest import HOST
from tests.control.rest import bearer, json_of

pytestmark = pytest.mark.slow

SECONDS = 50
"""Time limit: a busy machine sends fewer requests."""

KEY = "[!-~]{1,200}"


def test_description_is_openapi_3_1_and_the_same_for_every_account(empty_site):
    found = json_of(bearer(empty_site, "ada", "viewer").get("/api/v1/schema"), 200)
    assert found["openapi"].startswith("3.1")
    assert found == json_of(bearer(empty_site, "bob", superuser=True).get("/api/v1/schema"), 200)
    for name in found["components"]["schemas"]:
        Draft202012Validator({"components": found["components"], "$ref": f"#/components/schemas/{name}"})
    names = Counter(method["operationId"] for path in found["paths"].values() for method in path.values())
    assert [name for name, count in names.items() if count > 1] == []


COMPONENTS = """
    Approval ApprovalPage Audit AuditPage AuditVerdict Backup BackupPage Cause Check Confirmation ConsistencyCheck
    ConsistencyCheckPage Counts
    Decision
    EarlierRestore FindingKind Forgetting Forgotten Holding InPlace Issue IssuePage IssuedToken Job JobPage Lineage Log
    LogLine MadeRepair MadeRepairPage Measure NewBackup NewCheck NewSchedule NewToken NextRun
    Previewing Problem Progress Proving Pruning
    Readiness ReadinessItem Ready Reason Repair RepairPlan Repairing Repository RepositoryList Schedule ScheduleChange
    Schedules SetProving SetSummary Severity Source Space State Status Success SuccessDay Times ToFolder Token TokenPage
    WholeBackup WholeIssue WholeRepository
"""


def test_component_names_are_stable():
    """Generated clients name their classes after them: a renamed class keeps its component by a title."""
    assert set(COMPONENTS.split()) == description()["components"]["schemas"].keys()


def test_references_lead_to_components():
    references = set(re.findall(r"'\$ref': '([^']+)'", str(description())))
    assert references <= {f"#/components/schemas/{name}" for name in description()["components"]["schemas"]}


def test_every_route_describes_its_permission_and_errors():
    for path, methods in description()["paths"].items():
        for method, operation in methods.items():
            if not path.startswith(("/api/v1/consistency", "/admin/consistency")):
                assert operation["summary"] and "Needs " in operation["description"], (method, path)
            if operation["security"] != [{}]:
                assert {"401", "403", "429"} <= operation["responses"].keys(), (method, path)


@pytest.fixture
def whole_site(site, settings):
    """A site with objects of every kind and no rate limits."""
    settings.BACKUPS = settings.BACKUPS | {"API_RATES": {rate.scope: None for rate in RATES}}
    cache.clear()
    defaults.install()
    for note in ("one", "two"):
        done = site.done(submit.back_up(site.actor, backup="full", note=note, verify="hashes"))
        assert done.state == Job.State.SUCCEEDED, done.error
    lifecycle.say(Job.objects.first(), "a line")
    Worker.objects.create(host=HOST)
    return site


@pytest.fixture
def server(whole_site):
    """The address of the interface, served by a thread."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with WSGIServer(("127.0.0.1", 0), Quiet) as served:
        served.set_app(get_wsgi_application())
        thread = Thread(target=_serve, args=[served])
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join(30)


def _serve(served: WSGIServer) -> None:
    try:
        served.serve_forever(poll_interval=0.05)
    finally:
        connections.close_all()


def test_schemathesis_finds_no_undescribed_response(whole_site, server, request):
    ada = whole_site.person("ada", superuser=True)
    issued = tokens.issue(ada, "all", permissions.SCOPES, None)
    ApiToken.objects.filter(pk=issued.token.pk).update(id=10**14)  # an id that no test revokes
    other = tokens.issue(ada, "another", ["read"], None).token
    ids = {
        "backup_id": ["latest", *IndexedBackup.objects.values_list("backup_id", flat=True)],
        "job_id": [str(pk) for pk in Job.objects.values_list("pk", flat=True)],
        "name": ["main", "daily-full", "hourly-health"],
        "token_id": [other.pk],
        "number": [Check.objects.create(state="done", verdict="consistent").pk],
    }
    headers = {"Authorization": f"Bearer {issued.secret}"}
    config = SchemathesisConfig.from_dict(
        {
            "headers": headers,
            "generation": {"max-examples": 2, "deterministic": True, "database": "none"},
            "phases": {"stateful": {"enabled": False}, "coverage": {"unexpected-methods": ["PUT"]}},
            # A plan, a cron expression or a set can match the schema and still be invalid
            "checks": {"positive_data_acceptance": {"enabled": False}},
            "suppress-health-check": ["all"],
        }
    )
    schema = schemathesis.openapi.from_url(f"{server}/api/v1/schema", config=config, headers=headers)
    asked: Counter[str] = Counter()

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        """Mostly use existing objects, and a new valid key each time, since a used key is always refused."""
        for name, known in ids.items():
            if name in (case.path_parameters or {}):
                asked[name] += 1
                if asked[name] % 4:
                    case.path_parameters[name] = known[asked[name] % len(known)]
        if re.fullmatch(KEY, str((case.headers or {}).get("Idempotency-Key", ""))):
            asked["keys"] += 1
            case.headers["Idempotency-Key"] = f"key-{asked['keys']}"

    statuses: Counter[int] = Counter()
    seen, found, until = set(), [], time.monotonic() + SECONDS
    request.addfinalizer(lambda: unregister(before_call))
    stream = from_schema(schema).execute()
    for event in stream:
        if time.monotonic() > until:
            stream.stop()
        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            found.append(f"{event.label}: {event.value!r}")
        if not isinstance(event, ScenarioFinished):
            continue
        seen.add(event.label)
        statuses.update(one.response.status_code for one in event.recorder.interactions.values() if one.response is not None)
        for checks in event.recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    found.append(f"{event.label}: {check.name}: {check.failure_info.failure}\n{check.failure_info.code_sample}")
    connections.close_all()
    assert not found, f"{len(found)} findings\n" + "\n\n".join(dict.fromkeys(found))
    every = {f"{method.upper()} {path}" for path, methods in description()["paths"].items() for method in methods}
    print(sum(statuses.values()), "questions:", dict(statuses), "; not asked:", every - seen)
    assert len(seen) > len(every) / 2 and sum(statuses.values()) > 500, (len(seen), statuses)
    assert statuses[200] > 50 and statuses[202] and statuses[400] and statuses[404], statuses
