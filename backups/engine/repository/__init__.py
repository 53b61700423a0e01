"""Where backups live: folders and object storage, their lock, and what is kept."""
