"""Opens the stores that the project works with now."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from consistency.chroma_server import downloaded
from consistency.declaration import declared, option
from consistency.engine.context import Context
from consistency.engine.stores import Stores
from consistency.resolution import SERVER, database_files


@contextmanager
def live_stores(ctx: Context | None = None, *, whole: bool = True) -> Iterator[Stores]:
    """The project's live stores. A Chroma server is downloaded first; with *whole* false, no records yet.

    Raises `Mistake` and `StoreUnreadable`.
    """
    declaration = declared()
    place = declaration.chroma()
    stores = Stores(
        sqlite={file.stem: file for file in database_files()},
        chroma={},
        at_rest=False,
        settle=option("SETTLE_SECONDS"),
        under_way=declaration.under_way,
    )
    if isinstance(place, Path):
        yield replace(stores, chroma={place.name: place})
        return
    collections = {mirror.collection for mirror in declaration.mirrors}
    with downloaded(place, collections, ctx or Context(), whole=whole) as copy:
        yield replace(stores, chroma={SERVER: copy.directory}, renew=copy.renew)
