"""Fixtures of this folder."""

from tests.fixtures.history import history, mine, nobodys_settings

__all__ = ["history", "mine", "nobodys_settings"]
