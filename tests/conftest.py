"""Marks tests that are slow by what they use, reports why tests were skipped, and lets CI insist that no program is missing.

A test that skips because a program is missing names the package to install. One that skips because the kernel, the file
system or the user does not allow it begins its reason with "this machine"; such a skip never fails a run.
"""

from __future__ import annotations

import pytest

# A test that uses one of these, or is in one of these files, works with real stores and child processes for seconds
SLOW_FIXTURES = {"sample_library", "served_site", "stores", "scene", "prober"}
SLOW_FILES = {
    "consistency/test_live.py",
    "consistency/test_server.py",
    "control/test_api_schema.py",
    "control/test_api_served.py",
    "docs/test_commands.py",
    "restore/test_digests.py",
}
SLOW_NAMES = ("hundred_thousand", "million")
MACHINE = "this machine"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-programs", action="store_true", help="fail if a test is skipped because a program is missing")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = "/".join(item.path.parts[-2:])
        if (
            SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
            or file in SLOW_FILES
            or any(name in item.name for name in SLOW_NAMES)
        ):
            item.add_marker("slow")


def missing_programs(config: pytest.Config) -> list[str]:
    """The reasons of skipped tests, except those that the machine itself causes."""
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
