"""What people and programs may ask for: pages, the API, and management commands all call these.

Each function checks nothing about rights (the caller knows who asks, `access.may`), says in the audit who asked, and raises
`engine.errors.EngineError` with a hint. What takes long is queued as a job.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from . import access, accounts, audit, jobs, plans, schedules
from .access import Issued
from .audit import Actor
from .conf import configuration
from .engine.config import check_note
from .engine.errors import BackupNotFound, RestoreRefused, UsageError
from .engine.repository.local import Repository
from .engine.types import Backup, Hold
from .index import note_job, refresh_one
from .kinds import BACKUP, DELETE, DRILL, PREVIEW, PRUNE, REINDEX, RESTORE, RESTORE_IN_PLACE, VERIFY, kind_of
from .models import ApiToken, IndexedBackup, Job, JobLog, Plan

_HOLD_WAIT = 2.0


# Backups


def back_up(actor: Actor, **arguments: Any) -> Job:
    """Queue a backup; *arguments* as `kinds.BackupArguments`."""
    return jobs.enqueue(BACKUP, arguments, actor, note=str(arguments.get("note", "")))


def verify(actor: Actor, **arguments: Any) -> Job:
    """Queue a verification; *arguments* as `kinds.VerifyArguments`."""
    return jobs.enqueue(VERIFY, arguments, actor)


def drill(actor: Actor, **arguments: Any) -> Job:
    """Queue a test restore; *arguments* as `kinds.DrillArguments`."""
    return jobs.enqueue(DRILL, arguments, actor)


def preview_restore(actor: Actor, **arguments: Any) -> Job:
    """Queue a look at what a restore in place would change; *arguments* as `kinds.RestoreInPlaceArguments`."""
    return jobs.enqueue(PREVIEW, arguments, actor)


def restore_to_folder(actor: Actor, **arguments: Any) -> Job:
    """Queue a restore below ``RESTORE_FOLDER``; *arguments* as `kinds.RestoreArguments`."""
    row = indexed(str(arguments.get("backup_id", "")), str(arguments.get("repository", "")))
    return jobs.enqueue(RESTORE, {**arguments, "repository": row.repository}, actor)


def restore_in_place(actor: Actor, *, typed: str, **arguments: Any) -> Job:
    """Queue a restore over the live stores; *typed* must be the backup's id. The caller has asked for the password again.

    Raises `RestoreRefused` for a set that is kept apart: it holds the jobs and the audit, and what is running now.
    """
    row = indexed(str(arguments.get("backup_id", "")), str(arguments.get("repository", "")))
    if typed != row.backup_id:
        raise RestoreRefused("The id that was typed is not that of the backup. Nothing was changed.", hint="Type it in full.")
    why, hint = refusal_in_place(row)
    if why:
        raise RestoreRefused(why, hint=hint)
    return jobs.enqueue(RESTORE_IN_PLACE, {**arguments, "repository": row.repository}, actor)


def refusal_in_place(row: IndexedBackup) -> tuple[str, str]:
    """Why backups of this one's set are not restored in place from here, and what to do; both empty where they are."""
    if configuration().whole_set(row.set) not in configuration().kept_apart:
        return "", ""
    return (
        f"The set {row.set} holds what controls the backups, and is not restored in place from here: "
        "it would take away the very job that restores it.",
        "Restore it into a folder, or stop everything and use `refbackup restore` in a shell (DISASTER_RECOVERY.md).",
    )


def delete(actor: Actor, backup_ids: Sequence[str], *, repository: str = "") -> Job:
    """Queue the deletion of backups that no other needs."""
    for backup_id in backup_ids:
        row = indexed(backup_id, repository)
        if row.held:
            raise UsageError(f"Backup {backup_id} is held: {row.hold_note or 'no reason given'}.", hint="Release it first.")
    return jobs.enqueue(DELETE, {"backup_ids": list(backup_ids), "repository": repository}, actor)


def prune(actor: Actor, **arguments: Any) -> Job:
    """Queue a prune; *arguments* as `kinds.PruneArguments`."""
    return jobs.enqueue(PRUNE, arguments, actor)


def reindex(actor: Actor, *, repository: str = "") -> Job:
    """Queue reading the repository anew."""
    return jobs.enqueue(REINDEX, {"repository": repository}, actor)


def hold(actor: Actor, backup_id: str, note: str, *, repository: str = "") -> IndexedBackup:
    """Keep a backup whatever retention says. Raises `RepositoryLocked` while another run writes."""
    return _set_hold(actor, backup_id, Hold(time=timezone.now(), note=check_note(note)), repository)


def release(actor: Actor, backup_id: str, *, repository: str = "") -> IndexedBackup:
    """End a hold. Raises `RepositoryLocked` while another run writes."""
    return _set_hold(actor, backup_id, None, repository)


def _set_hold(actor: Actor, backup_id: str, wish: Hold | None, repository: str) -> IndexedBackup:
    row = indexed(backup_id, repository)
    opened, backup = stored(row)
    with opened.writing("hold", timezone.now(), wait=_HOLD_WAIT):
        opened.set_hold(backup, wish)
    audit.record(
        actor,
        "backup.held" if wish else "backup.released",
        f"backup:{backup_id}",
        before={"held": row.held, "note": row.hold_note},
        after={"held": wish is not None, "note": wish.note if wish else ""},
    )
    changed = refresh_one(row.repository, backup_id)
    assert changed is not None
    return changed


def indexed(backup_id: str, repository: str = "") -> IndexedBackup:
    """The index's row of a backup. Raises `BackupNotFound`."""
    names = [repository] if repository else sorted(configuration().repositories)  # named, so that the index finds it
    row = IndexedBackup.objects.filter(repository__in=names, backup_id=backup_id).order_by("repository").first()
    if row is None:
        raise BackupNotFound(
            f"There is no backup {backup_id!r} in the index.", hint="Read the repository anew if it was made elsewhere."
        )
    return row


def stored(row: IndexedBackup) -> tuple[Repository, Backup]:
    """A backup as its repository holds it now. Raises `BackupNotFound`, `DamageFound`."""
    repository = configuration().open(row.repository)
    return repository, repository.load(row.set, row.backup_id)


# Jobs and plans


def cancel(actor: Actor, job: Job) -> Job:
    """End a waiting job, or ask a running one to end."""
    return jobs.cancel(job, actor)


def run_again(actor: Actor, job: Job) -> Job:
    """A new job like an ended one. A restore in place is asked for anew, not again."""
    if job.kind == RESTORE_IN_PLACE.name:
        raise RestoreRefused("A restore in place is not run again by one click.", hint="Go through its steps again.")
    return jobs.again(job, actor)


def run_plan(actor: Actor, plan: Plan) -> Job:
    """Queue a job of a plan now; its times stay as they are."""
    return schedules.run(plan, actor)


def pause_plan(actor: Actor, plan: Plan) -> Plan:
    """Let a plan rest until it is resumed."""
    return _switch(actor, plan, enabled=False)


def resume_plan(actor: Actor, plan: Plan) -> Plan:
    """Let a plan run again, from its next time on: what was due while it rested is passed over."""
    return _switch(actor, plan, enabled=True)


def make_plan(actor: Actor, name: str, **values: Any) -> Plan:
    """Make a plan; *values* as `plans.WRITABLE`, and ``enabled``. Raises `UsageError` that names all that is wrong."""
    plan = Plan(name=name, **values)
    plan.paused_by = "" if plan.enabled else actor.name
    plans.check(plan)
    with transaction.atomic(using=configuration().database):
        if Plan.objects.filter(name=name).exists():
            raise UsageError(f"There is a plan {name!r} already.", hint="Change that one, or choose another name.")
        plan.save(force_insert=True)
        audit.record(actor, "plan.made", f"plan:{plan.name}", after={**plans.described(plan), "enabled": plan.enabled})
    return plan


def change_plan(actor: Actor, plan: Plan, **values: Any) -> Plan:
    """Change what *values* name, of `plans.WRITABLE`. A plan whose times change is next due after now."""
    with transaction.atomic(using=configuration().database):
        plan = Plan.objects.select_for_update().get(pk=plan.pk)
        before = plans.described(plan)
        for name, value in values.items():
            if name not in plans.WRITABLE:
                raise UsageError(f"{name} of a plan cannot be changed.", hint="Nothing was changed.")
            setattr(plan, name, value)
        plans.check(plan)
        after = plans.described(plan)
        changed = [name for name in plans.WRITABLE if before[name] != after[name]]
        if not changed:
            return plan
        if {"cron", "time_zone"} & set(changed):
            plan.served = timezone.now()
        plan.save()
        audit.record(
            actor,
            "plan.changed",
            f"plan:{plan.name}",
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )
    return plan


def remove_plan(actor: Actor, plan: Plan) -> None:
    """Remove a plan; its jobs stay. One that came with the installation comes back with ``install_schedules --again`` only."""
    with transaction.atomic(using=configuration().database):
        audit.record(actor, "plan.removed", f"plan:{plan.name}", before=plans.described(plan))
        plan.delete()


def _switch(actor: Actor, plan: Plan, *, enabled: bool) -> Plan:
    if plan.enabled != enabled:
        before = {"enabled": plan.enabled}
        plan.enabled, plan.paused_by = enabled, "" if enabled else actor.name
        if enabled:
            plan.served = timezone.now()
        plan.save(update_fields=["enabled", "paused_by", "served", "changed"])
        audit.record(
            actor, "plan.resumed" if enabled else "plan.paused", f"plan:{plan.name}", before=before, after={"enabled": enabled}
        )
    return plan


# Tokens


def issue_token(actor: Actor, user: AbstractUser, name: str, scopes: Sequence[str], expires: datetime | None) -> Issued:
    """Make a token of the API for *user*. Raises `UsageError`."""
    with transaction.atomic(using=configuration().database):
        try:
            issued = access.issue(user, name, scopes, expires)
        except ValueError as problem:
            raise UsageError(str(problem), hint="No token was made.") from None
        audit.record(actor, "token.issued", f"token:{issued.token.pk}", after=_described(issued.token))
    return issued


def revoke_token(actor: Actor, token: ApiToken) -> ApiToken:
    """Let a token be good for nothing from now on."""
    with transaction.atomic(using=configuration().database):
        if ApiToken.objects.filter(pk=token.pk, revoked=None).update(revoked=timezone.now()):
            audit.record(actor, "token.revoked", f"token:{token.pk}", before=_described(token))
    token.refresh_from_db()
    return token


def _described(token: ApiToken) -> dict[str, Any]:
    return {
        "name": token.name,
        "hint": token.hint,
        "account": token.username,
        "scopes": token.scopes,
        "expires": token.expires.isoformat() if token.expires else None,
    }


_accounts_before: dict[uuid.UUID, accounts.Accounts | None] = {}
"""Of each restore in place that this process runs: the accounts as they were."""


def before_job(job: Job) -> None:
    """What can be seen only before a job's work begins is looked at, and kept in this process for `after_job`."""
    if job.kind == RESTORE_IN_PLACE.name:
        _accounts_before[job.pk] = accounts.now()


def after_job(job: Job) -> None:
    """What a job may have changed is read anew: the index, and after a restore of the application's database who may do what.

    The groups are made anew, and what accounts and rights came back is added to the job's result and to the audit.
    """
    if job.kind == RESTORE_IN_PLACE.name:
        _note_accounts(job)
    note_job(job)


def _note_accounts(job: Job) -> None:
    alias = accounts.alias()
    try:
        connections[alias].close()  # its file may be another one now
        access.make_groups()
    except DatabaseError as problem:
        if alias == configuration().database:
            raise
        jobs.say(job, f"The groups could not be made anew: {problem}. Run manage.py migrate.", JobLog.Level.WARNING)
    if job.pk not in _accounts_before:
        return  # another process ran it, and is gone
    told = accounts.compare(_accounts_before.pop(job.pk), accounts.now())
    if job.result is not None and str(job.arguments.get("only") or "sqlite").startswith("sqlite"):
        job.result["accounts"] = told
    if any(told["counts"].values()):
        names = {what: [account["name"] for account in told[what]] for what in ("appear", "vanish")}
        changed = {one["name"]: [change["what"] for change in one["changes"]] for one in told["change"]}
        groups = {one["name"]: {"gains": one["gains"], "loses": one["loses"]} for one in told["groups"]}
        what = {"backup": job.arguments["backup_id"], **names, "change": changed, "groups": groups, "counts": told["counts"]}
        actor = Actor(name=job.by, id=job.by_id, via=Job.Via(job.via))
        audit.record(actor, f"{job.kind}.accounts", f"job:{job.pk}", after=what)


def permission_for(kind: str) -> str:
    """The permission that asking for a job of that kind takes."""
    return kind_of(kind).permission
