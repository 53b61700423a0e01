"""Options of the whole suite: ``--all-programs`` lets a skipped test fail the run, as in CI; ``--soak`` lengthens long tests.

A test that needs a program names the package to install in its reason. A reason that starts with "this machine" (its kernel,
file system or user does not allow the test) never fails a run.
"""

from __future__ import annotations

import pytest

MACHINE = "this machine"
MEASURED = ("archive", "capture", "cli", "copies", "encryption", "engine", "restore")
MEASURED_ATTACKS = ("test_forged_backups.py", "test_forged_journals.py", "test_hostile_chroma.py")
"""Modules of the suite ``trust`` that attack the engine alone."""

LONGEST = (
    "library/test_serve_script.py",
    "recovery/test_document.py",
    "recovery/test_disaster_recovery.py",
    "packaging",
    "restore",
)
"""What starts first, since a process that starts a long file last leaves the others without work."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-programs", action="store_true", help="fail if a test is skipped because a program is missing")
    parser.addoption(
        "--only", choices=["measured", "rest"], help="the tests that coverage of the engine is measured in, or the rest"
    )
    parser.addoption("--soak", type=int, default=1, help="multiply the rounds of tests that fight writers and kills")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> int:
    """How many times its usual rounds a test runs."""
    rounds: int = request.config.getoption("--soak")
    return rounds


def is_measured(item: pytest.Item) -> bool:
    """Whether coverage is measured in a test. Fights with writers are left out: it would slow them down."""
    suite = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    if suite == "trust":
        return item.path.name in MEASURED_ATTACKS
    return suite in MEASURED and not (suite == "capture" and item.get_closest_marker("slow"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only = config.getoption("--only")
    chosen = [item for item in items if not only or is_measured(item) == (only == "measured")]
    config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
    items[:] = sorted(chosen, key=position)


def position(item: pytest.Item) -> int:
    """The place of a test among `LONGEST`; all others come after them, in the order of their names."""
    name = item.path.relative_to(item.config.rootpath / "tests").as_posix()
    return next((place for place, long in enumerate(LONGEST) if name.startswith(long)), len(LONGEST))


def missing_programs(config: pytest.Config) -> list[str]:
    """The reasons of skipped tests, except reasons that start with "this machine"."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = {str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr) for report in skipped}
    return sorted(reason for reason in reasons if not reason.removeprefix("Skipped: ").startswith(MACHINE))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--all-programs") and session.exitstatus == 0 and missing_programs(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    missing = missing_programs(config)
    if config.getoption("--all-programs") and missing:
        terminalreporter.section("skipped, although every program must be installed", red=True)
        for reason in missing:
            terminalreporter.line(reason)
