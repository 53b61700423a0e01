"""Connects the apps `backups` and `consistency`, which do not know each other, in a project that has both.

List it in ``INSTALLED_APPS`` before them. Consistency checks and repairs then run as jobs, with pages, REST operations, plans,
alerts and metrics; a backup is made before each repair; and a proof by restore checks the restored stores.
"""
