"""Disaster recovery: what ``scripts/disaster_recovery.sh`` runs. It needs the engine, and neither Django nor a database.

========= ==========================================================================
module    subject
========= ==========================================================================
places    where the stores, the repository and the pid file are, as Django sees it
services  what runs on the stores: stopped before a restore, started again after it
report    what was done, on the screen and in a file to keep
steps     the restore itself: looked at, agreed to, kept, exchanged, checked
========= ==========================================================================
"""
