"""Encryption of backups: nobody who reads the repository reads the data (``docs/explanation/encryption.md``).

A full backup and its incrementals share a random *chain key* (`chain`), sealed with HPKE to each *recipient* and stored with
the full one. Keys of a backup are derived from it: one for its archive (`archive.sealed`), and one for
each *record*: the manifest, a proof, a hold (`chain.seal`). Private keys are in files (`identity`). For whom this host encrypts
is remembered beside its key and not in the repository (`keyring.Policy`): write access there must not be enough to add a
recipient, or to switch encryption off. The *recovery kit* (`kit`) has what is needed when everything else is gone.
"""
