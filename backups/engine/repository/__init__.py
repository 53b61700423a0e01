"""Where backups are stored: manifests, proofs and holds in a folder, its locks, and retention."""
