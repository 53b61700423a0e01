"""The finding of a collection whose index is broken: what is wrong with it, and what rebuilding it takes and loses."""

from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.records import record_pages
from backups.engine.chroma_files.tables import find_collection

from .compare import Sorted, fetched, window_size, windows
from .context import Context
from .errors import IndexBroken
from .findings import Finding, FindingKind, finding
from .mapping import Mapping
from .stores import Stores, open_stores, open_tables

WITHOUT_ROW = "records without a row"
"""The number, in Chroma's side of the finding, of records that a rebuild loses: no row has their id."""


def is_broken(mapping: Mapping, stores: Stores, ctx: Context) -> bool:
    """Whether the index of the mapping's collection is broken. Raises `StoreUnreadable`, `StoreBusy` and `Cancelled`."""
    try:
        with open_stores(mapping, stores, ctx) as sides:
            sides.vectors.check_index()
    except IndexBroken:
        return True
    return False


def of_broken_index(mapping: Mapping, stores: Stores, ctx: Context, problem: IndexBroken) -> Finding:
    """The finding for *problem*. Rows and records are counted without the index. Raises `StoreUnreadable` and `StoreBusy`."""
    counts, without_row = {"rows": 0, "records": 0}, 0
    with open_tables(mapping, stores, ctx) as (rows, chroma):
        collection = find_collection(chroma, mapping.collection)
        size = window_size(collection.dimension or 0 if collection else 0)
        pages = record_pages(chroma, collection, size) if collection else iter(())
        for held_rows, held_records in windows([Sorted(fetched(rows.stream(), size)), Sorted(pages)], size):
            counts["rows"] += len(held_rows)
            counts["records"] += len(held_records)
            without_row += len({record[0] for record in held_records} - {row[0] for row in held_rows})
    cause = problem.__cause__
    what = f"{cause} ({cause.file})" if isinstance(cause, BrokenIndex) else problem.message
    return finding(
        FindingKind.BROKEN_INDEX,
        mapping=mapping.name,
        record=mapping.collection,
        message=f"The index of the collection {mapping.collection} is broken: {what}. Its vectors were not all compared.",
        sqlite={"rows": counts["rows"]},
        chroma={"records": counts["records"], WITHOUT_ROW: without_row},
        fingerprint=str(counts),
    )
