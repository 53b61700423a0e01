"""The on-disk format: blocks, tables, archives and manifests. ``docs/reference/format.md`` describes it byte by byte."""
