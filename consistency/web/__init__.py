"""The pages below ``/admin/consistency/``. No page opens a store: they show what a check or a journal kept."""
