"""Backups: the `list`, the page of one (`detail`), and `delete`; `common` is what they share."""
