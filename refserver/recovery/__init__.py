"""Disaster recovery: what ``scripts/disaster_recovery.sh`` runs. It needs the engine, and neither Django nor a database.

============ =======================================================================
module       subject
============ =======================================================================
__main__     the command line
locations    where the stores, the repository and the pid file are, as Django sees it
services     the processes that use the stores, stopped for a restore and started again
report       what was done, on the screen and in a file
recovery     one recovery: preview, confirmation, lock, restore, summary
preview      what a restore would replace and do
engine_run   runs the engine's restore as a child process
in_place     restores over the live stores, and moves aside what cannot be backed up
waiting      the wait for their end, which interrupts running jobs after a while
interruption a signal to stop, obeyed where it is safe
check        ``scripts/check_backups.sh``: is there a fresh, sound backup?
============ =======================================================================
"""
