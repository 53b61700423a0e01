"""The backup engine: capture, archives, verification and restore. It needs no Django and no database of its own.

=================== ===================================================================================
package or module   contents
=================== ===================================================================================
``cli``             the command ``refbackup``, one module per command
``create``          a use case per module: make a backup, ...
``verify``          ... verify it (``check_stores`` asks the children ``prober`` and ``client_prober``)
``drill``           ... test a restore as in an emergency (``application_check`` asks the application too)
``restore``         ... restore it into a folder or in place (``extract`` writes its files)
``prune``           ... remove what retention does not keep, delete
``doctor``          ... diagnose sources and repository
``monitoring_check`` the command ``check_refbackup``: is there a fresh, sound backup?
``capture``         the cut: locks, pins and copies live stores, in child processes
``archive``         the format of a backup's data: blocks, frames, tables
``repository``      where backups are stored: ids, manifests, proofs, leases, retention
``chroma_files``    Chroma's tables and index files, read without its client
``runtime``         child processes, durable writes, locks, progress and cancellation
``gate``            how an application and a restore take turns on a Chroma directory
``types``           what a manifest and a proof contain; ``names``: what ids and names look like
``config``          settings from the environment and ``.env``
``errors``          every error with its code, exit code and hint
``progress``        progress bars and lines; numbers for people
=================== ===================================================================================
"""
