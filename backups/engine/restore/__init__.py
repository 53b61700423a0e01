"""Restores: into a folder, and in place over the live stores.

============== ========================================================================================
module         contents
============== ========================================================================================
``to_folder``  restore into a new folder; choosing and counting what is restored, for both kinds
``salvage``    backups whose manifest is lost, described by their archives
``in_place``   restore over live stores, from the checks to the start command
``dry_run``    what that would do
``ending``     ending an interrupted one: finishing or undoing it
``vacate``     stores that did not exist before, moved aside by an undo
``targets``    the live stores, and which of them cannot be replaced
``stage``      replacements staged beside the live stores, and checked
``safety``     the safety backup of the live stores
``writes``     whether a live store was written to since its safety backup
``attributes`` extended attributes and access control lists of the live store, given to its replacement
``keep``       what live folders contain and no backup holds, carried over
``exchange``   all stores exchanged at one instant
``roll_back``  the checks afterwards, and putting the old stores back
``commands``   the application's stop, check and start commands
============== ========================================================================================
"""
