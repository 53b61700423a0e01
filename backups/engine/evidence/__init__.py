"""Signed evidence: which backups, proofs and holds this host's key, or a trusted one, vouches for.

Anybody who can write to a repository can put anything there, remove it, or bring back an earlier copy. What tells a real backup
from a forged one is a signature whose key lies outside of the repository:

=========== ============================================================================================
module      contents
=========== ============================================================================================
``keys``    the signing key, trusted public keys, and the memory of each journal's end
``journal`` one signed journal per set: every line is signed and has the hash of the line before
``vouch``   what follows for a repository: what is vouched for, what vanished, what must be recorded
=========== ============================================================================================
"""
