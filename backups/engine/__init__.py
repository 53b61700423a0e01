"""The backup engine: capture, archives, verification and restore, with no Django and no database."""
