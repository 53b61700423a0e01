"""Who can read the backups of a repository: switching encryption on, adding and removing recipients, new keys."""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .encryption.chain import ENVELOPE, MOST_RECIPIENTS, Envelope, Header, Recipient, envelope
from .encryption.identity import make_identity, new_recovery_key, public_of, read_identity, recovery_key_in
from .encryption.keyring import RECOVERY, Keyring, Policy, next_key, promote_next_key
from .encryption.kit import recovery_kit
from .errors import DamageFound, EngineError, KeyMissing, UsageError, from_os_error
from .names import NAME
from .repository.folder import Repository
from .runtime import durable
from .runtime.context import Context
from .types import Manifest

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

    All chains of this host are sealed to its recipients again; after `rotate`, no longer to the recovery key before.

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
    before = [one for one in (policy.named(RECOVERY_BEFORE),) if one is not None]
    policy = replace(policy, recipients=_without(policy.recipients, before), checked=ctx.now())
    _keep(keyring, policy)
    try:
        promote_next_key(keyring.file, policy)  # after a rotation that was killed
    except OSError as problem:
        raise from_os_error(problem, "Replacing this host's key") from problem
    _rewrite(repository, policy, before, ctx)
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
    """Seal the chains that can be opened to *recipient* too, and all new ones. Can be repeated. Raises `UsageError`."""
    policy = _policy(keyring)
    if not NAME.fullmatch(recipient.name):
        raise UsageError(f"{recipient.name!r} cannot name a recipient: letters, digits, dots, dashes and underscores.")
    same = [one for one in policy.recipients if one.name == recipient.name or one.public == recipient.public]
    if same and same != [recipient]:
        raise UsageError(f"{same[0].name} is a recipient already, with another name or key.", hint="Nothing was changed.")
    if len(policy.recipients) >= MOST_RECIPIENTS:
        raise UsageError(f"There are {MOST_RECIPIENTS} recipients already.", hint="Nothing was changed.")
    policy = replace(policy, recipients=(*_without(policy.recipients, same), recipient))
    _keep(keyring, policy)
    return _rewrite(repository, policy, [], ctx)


def remove_recipient(repository: Repository, keyring: Keyring, name: str, ctx: Context) -> Rewritten:
    """Seal nothing to a recipient any more, and begin new chains: it may have kept the keys of those it could open.

    Can be repeated, as long as a chain is sealed to it. Raises `UsageError`.
    """
    policy = _policy(keyring)
    left = tuple(one for one in policy.recipients if one.name != name)
    if not left or name in (RECOVERY, RECOVERY_BEFORE):
        raise UsageError(
            f"Without {name} a loss of the others would lose the backups.",
            hint="`refbackup key rotate` makes a new recovery key in place of the old one. Nothing was changed.",
        )
    sealed = [one for _, found in _envelopes(repository) for one, _ in found.sealed if one.name == name]
    gone = [one for one in (policy.named(name), *sealed) if one is not None]
    if not gone:
        raise UsageError(f"There is no recipient {name!r}.", hint="`refbackup key list` shows them. Nothing was changed.")
    policy = replace(policy, recipients=left)
    _keep(keyring, policy)
    _end_chains(keyring)
    return _rewrite(repository, policy, gone, ctx)


def rotate(repository: Repository, keyring: Keyring, kit: Path, ctx: Context) -> Rewritten:
    """A new key for this host, if it is a recipient, a new recovery key in the file *kit*, and new chains from now on.

    Also after the loss of this host's key: what that opened then needs the old kit.

    The chains that can be opened are sealed to the new keys. The old kit stays valid until the new one is read back
    (`check_kit`). This host's old key is kept beside the new one and opens what could not be sealed again: other
    repositories, copies, damaged backups. After a crash, `check_kit` with the new kit ends it.
    """
    policy = _policy(keyring)
    recovery = policy.named(RECOVERY)
    if not keyring.is_active or recovery is None or policy.named(RECOVERY_BEFORE) is not None:
        raise UsageError("A recovery kit was not read back yet.", hint="Run `refbackup key check` first. Nothing was changed.")
    own = next((one for one in policy.recipients if one in keyring.owners), None) or policy.named(_host_name())
    key = new_recovery_key()
    new = [public_of(recovery_key_in(key), RECOVERY), Recipient(RECOVERY_BEFORE, recovery.public)]
    try:
        _write_kit(repository, kit, key, ctx)
        if own is not None:
            make_identity(next_key(keyring.file))
            new.append(public_of(read_identity(next_key(keyring.file)), own.name))
        changed = replace(policy, recipients=(*_without(policy.recipients, [own, recovery]), *new))
        keyring.keep(changed)
        promote_next_key(keyring.file, changed)
        keyring.end_chains()
    except OSError as problem:
        raise from_os_error(problem, "Making new keys") from problem
    return _rewrite(repository, changed, [own], ctx)


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
    keyring = repository.sealing.keyring
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
    if policy is not None and keyring is not None and keyring.identities:
        yield from _envelope_findings(repository, policy)
    backups = [backup.manifest for name in repository.sets() for backup in repository.backups(name)]
    if locked := [manifest.id for manifest in backups if manifest.locked]:
        more = f" and {len(locked) - 3:,} more" if len(locked) > 3 else ""
        yield "warning", f"no key here opens {', '.join(locked[:3])}{more}", "Name a recipient's key in BACKUP_ENCRYPTION_KEY."
    if policy is None and any(manifest.encryption is not None for manifest in backups):
        message = "it has encrypted backups, and this host does not know for whom to encrypt"
        yield "problem", message, "Name this host's key in BACKUP_ENCRYPTION_KEY, or run refbackup key init with a new one."
    elif policy is None:
        yield "note", "its backups are not encrypted", "refbackup key init encrypts them for this host and a recovery kit."
    elif policy.checked is not None:
        plain = [manifest for manifest in backups if manifest.encryption is None]
        later = [manifest.id for manifest in plain if manifest.finished > policy.checked]
        if later:
            message = f"not encrypted, though made after encryption was switched on: {', '.join(later[:3])}"
            yield "problem", message, "Find out who made them. `latest` takes them like others."
        if before := len(plain) - len(later):
            yield (
                "note",
                f"{before:,} of its backups were made before, and are not encrypted",
                "Retention removes them in time.",
            )


def _envelope_findings(
    repository: Repository, policy: Policy
) -> Iterator[tuple[Literal["ok", "note", "warning", "problem"], str, str]]:
    wanted = {one.public for one in policy.recipients}
    for manifest, found in _envelopes(repository):
        listed = {one.public for one, _ in found.sealed}
        if manifest.locked or wanted.isdisjoint(listed):
            continue  # another host's
        if altered := repository.sealing.altered_envelope(manifest):
            yield "problem", f"{manifest.id}: {altered.removesuffix('.')}", "Find out who did it, then: refbackup key check."
        elif lacking := [one.name for one in policy.recipients if one.public not in listed]:
            message = f"the chain of {manifest.id} is not sealed to {', '.join(lacking)}"
            yield "warning", message, "Seal it again: refbackup key check --kit FILE."


def _policy(keyring: Keyring) -> Policy:
    if keyring.policy is None:
        raise UsageError("Encryption is not switched on here.", hint="`refbackup key init` does it. Nothing was changed.")
    return keyring.policy


def _end_chains(keyring: Keyring) -> None:
    try:
        keyring.end_chains()
    except OSError as problem:
        raise from_os_error(problem, "Ending the chains") from problem


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


def _rewrite(repository: Repository, policy: Policy, gone: Sequence[Recipient | None], ctx: Context) -> Rewritten:
    """Seal this host's chains again: to the recipients of the *policy* and to others that they have, without those *gone*.

    Chains are this host's if its kit, or the one before, opens them. Recipients in an envelope that nobody with the chain's
    key wrote are dropped. The caller is the writer.
    """
    done, left, kits = [], {}, (RECOVERY, RECOVERY_BEFORE)
    own = {one.public for one in (*policy.recipients, *gone) if one is not None and one.name in kits}
    try:
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
            if not found.is_intact(chain):
                ctx.log(f"ALTERED {manifest.id}: {ENVELOPE} named recipients that nobody with the key wrote; they are dropped")
                named = []
            others = [one for one in _without(named, [*policy.recipients, *gone]) if policy.named(one.name) is None]
            others = [one for one in others if one.name != RECOVERY_BEFORE]
            repository.write_envelope(chain, envelope(chain, [*policy.recipients, *others]))
            done.append(manifest.id)
    except OSError as problem:
        raise from_os_error(problem, "Rewriting the envelopes") from problem
    return Rewritten(tuple(done), left)


def _host_name() -> str:
    name = socket.gethostname()
    return name if NAME.fullmatch(name) and name != RECOVERY else "host"
