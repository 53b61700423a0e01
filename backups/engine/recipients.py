"""Who can read the backups of a repository: switching encryption on, adding and removing recipients, new keys."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .encryption.chain import MOST_RECIPIENTS, Envelope, Header, Recipient, envelope
from .encryption.identity import make_identity, new_recovery_key, public_of, read_identity, recovery_key_in
from .encryption.keyring import RECOVERY, Keyring, Policy, next_key, promote_next_key
from .encryption.kit import recovery_kit
from .errors import DamageFound, EngineError, KeyMissing, UsageError, from_os_error
from .names import NAME
from .repository.folder import Repository
from .runtime import durable
from .runtime.context import Context
from .types import Manifest

_LOCK_WAIT = 10.0
RECOVERY_BEFORE = "recovery-before"
"""The old recovery key, until the new one is read back."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The chains whose envelopes were rewritten, and for each chain that no key at hand opened, the reason."""

    done: tuple[str, ...]
    left: dict[str, str]


def switch_on(repository: Repository, keyring: Keyring, kit: Path, ctx: Context, *, host: bool = True) -> Policy:
    """Make this host's key, a recovery key, and the file *kit*, which did not exist. Nothing is encrypted before `check_kit`.

    Without *host*, only the recovery kit opens the backups, and this host reads no more than the chain that it continues.
    Raises `UsageError` where encryption is on already, and for a *kit* in the repository.
    """
    if keyring.is_active:
        raise UsageError(
            "Backups are encrypted already.",
            hint="`refbackup key list` shows for whom; `add`, `remove` and `rotate` change it. Nothing was changed.",
        )
    recipients = []
    if host:
        make_identity(keyring.file)
        identity = read_identity(keyring.file)
        assert identity is not None
        recipients.append(public_of(identity, _host_name()))
    key = new_recovery_key()
    recipients.append(public_of(recovery_key_in(key), RECOVERY))
    try:
        _write_kit(repository, kit, key, ctx)
        policy = Policy(recipients=tuple(recipients))
        keyring.keep(policy)
    except OSError as problem:
        raise from_os_error(problem, "Switching encryption on") from problem
    return policy


def check_kit(repository: Repository, keyring: Keyring, text: str, ctx: Context) -> bool:
    """Read a recovery kit, or the key as it was typed, back. Returns whether this switched encryption on.

    After `rotate`, chains are no longer sealed to the recovery key before.

    Raises `UsageError` for one that is not the recovery key of this repository.
    """
    policy = _policy(keyring)
    identity = recovery_key_in(text)
    expected = policy.named(RECOVERY)
    if identity is None:
        raise UsageError("There is no recovery key in it.", hint="A recovery key begins with RBKEY-. Nothing was changed.")
    if expected is None or public_of(identity, RECOVERY) != expected:
        raise UsageError(
            "This is not the recovery key of this repository.",
            hint="Use the kit that `refbackup key init` or `key rotate` made last. Nothing was changed.",
        )
    before = policy.named(RECOVERY_BEFORE)
    if before is not None:
        policy = replace(policy, recipients=_without(policy.recipients, (before,)))
    _keep(keyring, replace(policy, checked=ctx.now()))
    if before is not None:
        try:
            promote_next_key(keyring.file, policy)  # after a rotation that was killed
        except OSError as problem:
            raise from_os_error(problem, "Replacing this host's key") from problem
        _rewrite(repository, policy, lambda now: _without(_in_force(now, policy), [before]), ctx)
    return keyring.policy is not None and keyring.policy.checked is None


def opened_by_kit(repository: Repository, text: str) -> tuple[int, list[str]]:
    """How many chains of the repository the recovery key in *text* opens, and the chains that it does not open."""
    identity = recovery_key_in(text)
    opened, closed = 0, []
    for manifest, found in _envelopes(repository):
        try:
            assert identity is not None and manifest.encryption is not None
            found.open([identity], Header(manifest.encryption.chain, manifest.encryption.commitment))
            opened += 1
        except (KeyMissing, DamageFound):
            closed.append(manifest.id)
    return opened, closed


def add_recipient(repository: Repository, keyring: Keyring, recipient: Recipient, ctx: Context) -> Rewritten:
    """Seal the chains that can be opened to *recipient* too, and all new ones. Raises `UsageError`."""
    policy = _policy(keyring)
    if not NAME.fullmatch(recipient.name):
        raise UsageError(f"{recipient.name!r} cannot name a recipient: letters, digits, dots, dashes and underscores.")
    if policy.named(recipient.name) is not None or any(one.public == recipient.public for one in policy.recipients):
        raise UsageError(f"{recipient.name} or this key is a recipient already.", hint="Nothing was changed.")
    if len(policy.recipients) >= MOST_RECIPIENTS:
        raise UsageError(f"There are {MOST_RECIPIENTS} recipients already.", hint="Nothing was changed.")
    _keep(keyring, replace(policy, recipients=(*policy.recipients, recipient)))
    return _rewrite(repository, policy, lambda now: (*_without(now, [recipient]), recipient), ctx)


def remove_recipient(repository: Repository, keyring: Keyring, name: str, ctx: Context) -> Rewritten:
    """Seal nothing to a recipient any more, and begin new chains: it may have kept the keys of those it could open."""
    policy = _policy(keyring)
    if policy.named(name) is None:
        raise UsageError(f"There is no recipient {name!r}.", hint="`refbackup key list` shows them. Nothing was changed.")
    left = tuple(one for one in policy.recipients if one.name != name)
    if not left or name in (RECOVERY, RECOVERY_BEFORE):
        raise UsageError(
            f"Without {name} a loss of the others would lose the backups.",
            hint="`refbackup key rotate` makes a new recovery key in place of the old one. Nothing was changed.",
        )
    _keep(keyring, replace(policy, recipients=left, new_chains_after=ctx.now()))
    return _rewrite(repository, policy, lambda now: _without(now, [policy.named(name)]), ctx)


def rotate(repository: Repository, keyring: Keyring, kit: Path, ctx: Context) -> Rewritten:
    """A new key for this host, if it is a recipient, a new recovery key in the file *kit*, and new chains from now on.

    The chains that can be opened are sealed to the new keys, and no longer to this host's old one. The old kit stays valid
    until the new one is read back (`check_kit`). After a crash, run it again: a key is replaced only when the new one opens
    everything that it opened. An old key may have been copied, with everything that it opened.
    """
    policy = _policy(keyring)
    recovery = policy.named(RECOVERY)
    if not keyring.is_active or recovery is None or policy.named(RECOVERY_BEFORE) is not None:
        raise UsageError("A recovery kit was not read back yet.", hint="Run `refbackup key check` first. Nothing was changed.")
    own = next((one for one in policy.recipients if one in keyring.owners), None)
    key = new_recovery_key()
    new = [public_of(recovery_key_in(key), RECOVERY)]
    before = Recipient(RECOVERY_BEFORE, recovery.public)
    try:
        _write_kit(repository, kit, key, ctx)
        if own is not None:
            following = next_key(keyring.file)
            make_identity(following)
            new.append(public_of(read_identity(following), own.name))
        _rewrite(repository, policy, lambda now: (*_without(_unnamed(now), new), before, *new), ctx)
        changed = replace(policy, recipients=(*_without(_unnamed(policy.recipients), [own]), *new, before))
        keyring.keep(replace(changed, new_chains_after=ctx.now()))
        promote_next_key(keyring.file, changed)
    except OSError as problem:
        raise from_os_error(problem, "Making new keys") from problem
    return _rewrite(repository, changed, lambda now: tuple(_in_force(now, changed)), ctx)


def _in_force(recipients: Sequence[Recipient], policy: Policy) -> list[Recipient]:
    """Without keys in whose place the policy has another one of that name."""
    return [one for one in recipients if policy.named(one.name) in (None, one)]


def _unnamed(recipients: Sequence[Recipient]) -> list[Recipient]:
    """Without recovery keys, including the ones that a killed run left."""
    return [one for one in recipients if one.name not in (RECOVERY, RECOVERY_BEFORE)]


def _without(recipients: Sequence[Recipient], gone: Sequence[Recipient | None]) -> tuple[Recipient, ...]:
    return tuple(one for one in recipients if one.public not in {other.public for other in gone if other is not None})


def _write_kit(repository: Repository, kit: Path, key: str, ctx: Context) -> None:
    if Path(os.path.realpath(kit)).is_relative_to(os.path.realpath(repository.folder)):
        raise UsageError(f"{kit} lies inside the repository.", hint="Choose a place outside. Nothing was changed.")
    durable.make_folder(kit.absolute().parent)
    if not durable.create_file(kit, recovery_kit(repository.folder, key, ctx.now()).encode()):
        raise UsageError(f"{kit} exists.", hint="Name a new file. Nothing was changed.")


def encryption_findings(repository: Repository) -> Iterator[tuple[Literal["ok", "note", "warning", "problem"], str, str]]:
    """What `doctor` says of encryption: the level, the message, and advice."""
    keyring, sealing = repository.sealing.keyring, repository.sealing
    policy = keyring.policy if keyring is not None else None
    if keyring is not None and policy is not None:
        names = ", ".join(one.name for one in policy.recipients)
        if policy.checked is None:
            yield "warning", "its backups are not encrypted yet", "Read the recovery kit back: refbackup key check --kit FILE."
        else:
            since = f"the recovery kit was read back on {policy.checked:%Y-%m-%d}"
            yield "ok", f"encrypted for {names}; {since}", ""
        if policy.named(RECOVERY_BEFORE) is not None:
            message = "the old recovery kit still opens its backups"
            yield "warning", message, "Read the new kit back: refbackup key check --kit FILE."
    backups = [backup.manifest for name in repository.sets() for backup in repository.backups(name)]
    if locked := [manifest.id for manifest in backups if manifest.locked]:
        more = f" and {len(locked) - 3:,} more" if len(locked) > 3 else ""
        yield "warning", f"no key here opens {', '.join(locked[:3])}{more}", "Name a recipient's key in BACKUP_ENCRYPTION_KEY."
    if policy is None and any(manifest.encryption is not None for manifest in backups):
        message = "it has encrypted backups, and this host does not know for whom to encrypt"
        yield "problem", message, "Name this host's key in BACKUP_ENCRYPTION_KEY, or run refbackup key init with a new one."
    elif policy is None:
        yield "note", "its backups are not encrypted", "refbackup key init encrypts them for this host and a recovery kit."
    elif sealing.is_active and (plain := sum(manifest.encryption is None for manifest in backups)):
        yield "note", f"{plain:,} of its backups were made before, and are not encrypted", "Retention removes them in time."


def _policy(keyring: Keyring) -> Policy:
    if keyring.policy is None:
        raise UsageError("Encryption is not switched on here.", hint="`refbackup key init` does it. Nothing was changed.")
    return keyring.policy


def _keep(keyring: Keyring, policy: Policy) -> None:
    try:
        keyring.keep(policy)
    except OSError as problem:
        raise from_os_error(problem, "Remembering the recipients") from problem


def _envelopes(repository: Repository) -> Iterable[tuple[Manifest, Envelope]]:
    """The full backup and the envelope of each chain in the repository. What cannot be read is left out."""
    for set_name in repository.sets():
        for backup in repository.backups(set_name):
            encryption = backup.manifest.encryption
            if encryption is not None and encryption.chain == backup.id:
                try:
                    yield backup.manifest, repository.sealing.chains(set_name).envelope(backup.id)
                except EngineError:
                    continue


def _rewrite(
    repository: Repository, policy: Policy, recipients: Callable[[list[Recipient]], tuple[Recipient, ...]], ctx: Context
) -> Rewritten:
    """Rewrite each envelope of this host's chains, for what *recipients* makes of its recipients.

    Chains are this host's if the recovery key of the *policy* opens them; other hosts have other kits.
    """
    done, left = [], {}
    own = {one.public for one in policy.recipients if one.name in (RECOVERY, RECOVERY_BEFORE)}
    try:
        with repository.writing("key", ctx.now(), _LOCK_WAIT):
            for manifest, found in list(_envelopes(repository)):
                ctx.check()
                named = [recipient for recipient, _ in found.sealed]
                if own.isdisjoint(one.public for one in named):
                    continue
                try:
                    chain = repository.sealing.chain_of(manifest)
                except EngineError as problem:
                    left[manifest.id] = problem.message
                    continue
                assert chain is not None
                repository.write_envelope(chain, envelope(chain, recipients(named)))
                done.append(manifest.id)
    except OSError as problem:
        raise from_os_error(problem, "Rewriting the envelopes") from problem
    return Rewritten(tuple(done), left)


def _host_name() -> str:
    name = socket.gethostname()
    return name if NAME.fullmatch(name) and name != RECOVERY else "host"
