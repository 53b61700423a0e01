"""One person, or one stolen session, neither restores, deletes nor changes retention alone where two people are required."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backups.identity import audit, four_eyes
from backups.identity.audit import Actor
from backups.models import Approval, AuditEntry, IndexedBackup, Job, Plan
from backups.monitoring import gathering
from backups.monitoring.conditions import observe
from tests.control.rest import bearer, json_of, problem, send
from tests.control.test_backup_pages import indexed

LIST = "/admin/backup/approvals/"
V1 = "/api/v1"


@pytest.fixture
def pair(empty_site, settings):
    settings.BACKUPS_FOUR_EYES = True
    return empty_site.client("ada", "restorer"), empty_site.client("bob", "restorer")


def ask_to_delete(client: Client, row: IndexedBackup) -> Approval:
    address, form = reverse("backups:delete"), {"id": row.address}
    page = client.post(address, form)
    assert page.status_code == 403 and "takes two people" in page.content.decode()
    assert client.post(address, {**form, "approval_reason": "too old"}).url == LIST
    return Approval.objects.get(state="waiting")


def decide(client: Client, row: Approval, do: str, reason: str = "") -> str:
    answer = client.post(f"{LIST}{row.pk}/decide/", {"do": do, "reason": reason}, follow=True)
    row.refresh_from_db()
    return re.sub(r"\s+", " ", unescape(answer.content.decode()))


def carry_out(client: Client, row: Approval, **changes: str):
    return client.post(row.address, {**dict(row.content), "approval": str(row.pk), **changes})


def jobs() -> int:
    return Job.objects.filter(kind="delete").count()


def test_off_by_default(empty_site):
    row = indexed()
    assert empty_site.client("ada", "restorer").post(reverse("backups:delete"), {"id": row.address}).status_code == 302
    assert jobs() == 1


def test_a_request_is_approved_by_another_and_used_once(empty_site, pair):
    ada, bob = pair
    row, other = indexed(), indexed()
    asked = ask_to_delete(ada, row)
    assert jobs() == 0 and "You asked for this yourself." in decide(ada, asked, "approve")
    assert carry_out(ada, asked).status_code == 409 and asked.state == "waiting"
    page = bob.get(LIST).content.decode()
    assert row.address in page and "too old" in page and "Approve" in page
    assert "approved" in decide(bob, asked, "approve") and asked.state == "approved"
    assert carry_out(bob, asked).status_code == 409, "only its author"
    assert carry_out(ada, asked, id=other.address).status_code == 409, "only this"
    assert jobs() == 0
    page = ada.get(LIST).content.decode()
    assert f'name="id" value="{row.address}"' in page and "Carry out" in page
    assert carry_out(ada, asked).status_code == 302 and jobs() == 1
    assert Job.objects.get(kind="delete").arguments["backup_ids"] == [row.backup_id]
    assert carry_out(ada, asked).status_code == 409 and jobs() == 1, "once"
    actions = AuditEntry.objects.filter(action__startswith="approval.").order_by("number").values_list("action", "who")
    assert list(actions) == [("approval.asked", "ada"), ("approval.approved", "bob"), ("approval.used", "ada")]
    # Also when both people act between two looks of the worker
    kinds = {one.kind: one for one in observe(gathering.gather(timezone.now()))}
    assert kinds["approval_given"].text.startswith("bob approved for ada: ") and "approval_waits" not in kinds


def test_what_changed_since_is_refused(empty_site, pair):
    ada, bob = pair
    row = indexed()
    asked = ask_to_delete(ada, row)
    decide(bob, asked, "approve")
    IndexedBackup.objects.filter(pk=row.pk).update(bytes_stored=row.bytes_stored + 1)
    answer = carry_out(ada, asked)
    assert answer.status_code == 409 and "has changed since" in answer.content.decode() and jobs() == 0


def test_rights_are_checked_again(empty_site, pair):
    ada, bob = pair
    asked = ask_to_delete(ada, indexed())
    decide(bob, asked, "approve")
    get_user_model().objects.get(username="ada").groups.clear()
    assert carry_out(ada, asked).status_code == 403 and jobs() == 0


def test_accounts_made_or_changed_for_it_cannot_approve(empty_site, pair):
    ada, bob = pair
    asked = ask_to_delete(ada, indexed())
    young = empty_site.client("young", superuser=True)
    assert "younger than the request" in decide(young, asked, "approve")
    audit.record(Actor(name="ada", via=Job.Via.PAGES), "account.changed", "account:bob")
    assert "ada added or changed your account" in decide(bob, asked, "approve")
    assert "needs the permission" in decide(empty_site.client("olga", "operator"), asked, "approve")
    assert asked.state == "waiting"


def test_it_expires_and_is_rejected_with_a_reason(empty_site, pair):
    ada, bob = pair
    asked = ask_to_delete(ada, indexed())
    assert "A reason is one line" in decide(bob, asked, "reject") and asked.state == "waiting"
    decide(bob, asked, "approve")
    Approval.objects.filter(pk=asked.pk).update(expires=timezone.now() - timedelta(seconds=1))
    assert carry_out(ada, asked).status_code == 409 and jobs() == 0
    Approval.objects.filter(pk=asked.pk).update(expires=timezone.now() + timedelta(hours=1))
    assert "rejected" in decide(bob, asked, "reject", "not now") and asked.decision == "not now"
    assert carry_out(ada, asked).status_code == 409 and jobs() == 0


def test_one_person_goes_ahead_an_hour_later_and_everybody_is_alerted(empty_site, pair):
    ada, bob = pair
    asked = ask_to_delete(ada, indexed())
    kinds = lambda: {one.kind: one for one in observe(gathering.gather(timezone.now()))}  # noqa: E731
    assert "too old" in kinds()["approval_waits"].text and kinds()["approval_waits"].address == LIST
    assert "Only the person who asked" in decide(bob, asked, "emergency")
    decide(ada, asked, "emergency")
    assert kinds()["emergency"].severity == "critical"
    assert carry_out(ada, asked).status_code == 409 and jobs() == 0
    Approval.objects.filter(pk=asked.pk).update(emergency=timezone.now() - timedelta(minutes=61))
    assert carry_out(ada, asked).status_code == 302 and jobs() == 1
    assert AuditEntry.objects.get(action="approval.used").after["alone"] is True
    assert "emergency" in kinds(), "for a day"


def test_a_restored_control_database_brings_no_approval_back(empty_site, pair):
    ada, bob = pair
    asked = ask_to_delete(ada, indexed())
    decide(bob, asked, "approve")
    kept = dict(Approval.objects.values().get())
    carry_out(ada, asked)
    Approval.objects.filter(pk=asked.pk).update(**kept)
    four_eyes.end_open()  # as the workers do when they start
    assert carry_out(ada, asked).status_code == 409 and jobs() == 1


def test_requests_over_rest(empty_site, pair):
    _, bob = pair
    program = bearer(empty_site, "carl", "restorer", "operator", superuser=False)
    Plan.objects.create(name="pruning", kind="prune", cron="0 3 * * *", arguments={"keep_last": 9})
    _, row = indexed(), indexed()
    path = f"{V1}/backups/{row.backup_id}"
    problem(send(program, path, method="DELETE"), 403, "approval")
    problem(send(program, f"{V1}/backups/latest", method="DELETE", Approval_Reason="too old"), 400, "usage")
    key = problem(send(program, path, method="DELETE", Approval_Reason="too old"), 403, "approval")["id"]
    decision = f"{V1}/approvals/{key}/decide"
    problem(send(program, decision, {"do": "approve"}), 403, "session_needed")
    problem(send(program, path, method="DELETE", Approval=key), 409, "restore_refused")
    assert json_of(send(bob, decision, {"do": "approve"}), 200)["state"] == "approved"
    problem(send(program, f"{V1}/schedules/pruning", method="DELETE", Approval=key), 409, "restore_refused")
    assert Plan.objects.exists() and jobs() == 0
    json_of(send(program, path, method="DELETE", Approval=key), 202)
    problem(send(program, path, method="DELETE", Approval=key), 409, "restore_refused")
    assert jobs() == 1
    assert json_of(program.get(f"{V1}/approvals"), 200)["items"][0]["state"] == "used"
    problem(send(program, f"{V1}/schedules/pruning", {"title": "x"}, "PATCH"), 403, "approval")
