"""Lets CI insist that no program is missing: with ``--all-programs`` a skipped test fails the run.

A test that needs a program names the package to install in its reason. A reason that starts with "this machine" (its kernel,
file system or user does not allow the test) never fails a run.
"""

from __future__ import annotations

import pytest

MACHINE = "this machine"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-programs", action="store_true", help="fail if a test is skipped because a program is missing")


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
