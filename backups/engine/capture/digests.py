"""The digests of a Chroma directory, as the manifest keeps them."""

from collections.abc import Callable
from typing import Any

from ..runtime.context import Context
from ..types import Collection, Digest, Problem, Source, SourceRecord
from .cut import STEP_TIMEOUT, Cut, Instant


def digest_source(
    cut: Cut,
    source: Source,
    instant: Instant,
    before: SourceRecord | None,
    check: Callable[[], None],
    ctx: Context,
    *,
    carry_on: bool,
) -> tuple[Collection, ...] | Problem:
    """The digests of the collections of a Chroma directory, read from the copy, or those of the parent if nothing changed.

    *before* is the source in the parent. With *carry_on*, records that Chroma has not written since then are not read; without,
    it is logged if such records differ from the parent's. A problem if the files contradict each
    other.
    """
    if before is not None and not instant.changed[source.prefix]:
        return before.collections
    parents = {item.id: item for item in before.collections} if before is not None else {}
    answer = cut.holder.ask(
        "digest",
        timeout=STEP_TIMEOUT,
        check=check,
        directory=str(cut.staged(source)),
        parents={item.id: _parent_digest(item) for item in parents.values()},
        carry_on=carry_on,
    )
    if "problem" in answer:
        return Problem(
            code="chroma_structure",
            source=source.name,
            file=answer["file"],
            offset=answer["offset"],
            message=answer["problem"],
        )
    collections = []
    for item in answer["collections"]:
        digest = item.pop("digest")
        if item.pop("altered"):
            ctx.log(
                f"ALTERED {source.prefix}: records of {item['name']} differ from those in the parent, and Chroma has not "
                "written them since. If nobody edited its files, they are damaged."
            )
        if digest["indexed"] is None:
            old = parents[item["id"]].digest
            digest |= {"indexed": old.indexed, "indexed_count": old.indexed_count}
        collections.append(Collection(**item, digest=Digest(**digest)))
    return tuple(collections)


def _parent_digest(collection: Collection) -> dict[str, Any]:
    """The fields of `chroma_files.digests.ParentDigest`."""
    digest = collection.digest.model_dump(include={"count", "indexed_count", "indexed", "records"})
    return {"metadata_at": collection.metadata_at, "vector_at": collection.vector_at, **digest}
