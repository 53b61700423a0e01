"""``disaster_recovery.sh --look``: the state of stores, repository and services, and which section helps. Changes nothing."""

from backups.engine.doctor import diagnose
from backups.engine.errors import EngineError
from backups.engine.repository.folder import Repository
from backups.engine.runtime.context import Context

from . import services
from .compare import differences
from .faults import Fault, Section, find_faults
from .locations import CONTROL, DEFAULT, ROOT, Locations
from .report import runnable
from .stopped import KilledRecovery, killed_recovery

_NEXT, _INDENTED = "\n", "\n       "


def look(locations: Locations) -> tuple[str, bool]:
    """The report as text, and whether all is well."""
    faults = find_faults(locations)
    if any(fault.blocks and fault.section in (Section.FULL, Section.OWNER) for fault in faults):
        lines = ["NOTE     The stores were not examined: until this is repaired, sound ones look broken."]
        well = False
    else:
        repository = _repository(locations)
        if repository is None and all(fault.section is not Section.REPOSITORY for fault in faults):
            faults.append(Fault(str(locations.repository), "there is no repository that can be read", Section.REPOSITORY))
        stores = (*locations.stores(DEFAULT), *(store for store in locations.stores(CONTROL) if store.path.exists()))
        diagnosis = diagnose(locations.repository, stores, Context())
        found = differences(locations, repository)
        lines = [runnable(diagnosis.as_text(), locations.repository)]
        lines += [f"{'PROBLEM' if one.problem else 'NOTE':<8} {one.text}" for one in found]
        well = diagnosis.ok and not faults
        if any(one.problem for one in found):
            lines.append(f"         -> {ROOT / 'DISASTER_RECOVERY.md'}, section “{Section.DIFFERENT.value}”")
            well = False
    lines = [*lines, *(f"PROBLEM  {fault.as_text().replace(_NEXT, _INDENTED)}" for fault in faults)]
    if killed := killed_recovery(locations):
        lines += _killed_lines(killed, locations)
        well = False
    running = ", ".join(service.title for service in services.running(locations))
    lines.append(f"RUNS     {running or 'no running RefServer was found'}")
    return "\n".join(lines), well


def _killed_lines(killed: KilledRecovery, locations: Locations) -> list[str]:
    """What a killed recovery left, how to go on, and how to go back if it had exchanged the stores."""
    script = f"{ROOT}/scripts/disaster_recovery.sh"
    lines = [f"PROBLEM  {killed.message}", f"         -> {script} --finish starts it"]
    repository = _repository(locations)
    made = [
        item.id
        for item in (repository.backups() if repository is not None else ())
        if item.manifest.safety and killed.began is not None and item.manifest.finished >= killed.began
    ]
    if made:
        lines.append(f"         -> {script} --backup-id {made[0]} brings back the data from before it: its safety backup")
    elif killed.began is not None and repository is not None:
        lines.append("         It had made no safety backup.")
    return lines


def _repository(locations: Locations) -> Repository | None:
    try:
        return locations.open_repository()
    except EngineError:
        return None
