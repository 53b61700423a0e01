"""A real Chroma client in a process of its own, told by JSON lines what to call.

``python -m tests.restore.chroma_client DIRECTORY [gate]``: with ``gate`` it takes part in the gate as an application does,
and reopens its client when the generation has moved on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import chromadb
from chromadb.api.client import AdminClient
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings

from backups.engine.gate import Gate


class Client:
    """What the requests call."""

    def __init__(self, directory: str, gate: bool) -> None:
        self._directory = directory
        self._gate = Gate(Path(directory)) if gate else None
        self._generation = -1
        self._client: Any = None

    def _opened(self, tenant: str | None, database: str | None) -> Any:
        where = {"tenant": tenant or "default_tenant", "database": database or "default_database"}
        settings = Settings(anonymized_telemetry=False)
        if tenant or database:
            return chromadb.PersistentClient(self._directory, settings=settings, **where)
        if self._client is None:
            self._client = chromadb.PersistentClient(self._directory, settings=settings)
        return self._client

    def call(self, request: dict[str, Any]) -> Any:
        if self._gate is None:
            return self._call(request)
        with self._gate.exclusive() as held:
            if held.generation != self._generation:
                self.close()
                self._generation = held.generation
            return self._call(request)

    def close(self) -> None:
        """Drop the client; the next call opens the directory again."""
        if self._client is not None:
            self._client = None
            SharedSystemClient.clear_system_cache()

    def _call(self, request: dict[str, Any]) -> Any:
        if request["do"] == "close":
            self.close()
            return None
        if request["do"] == "database":
            self._opened(None, None)
            admin = AdminClient.from_system(self._client._system)
            if request.get("tenant"):
                admin.create_tenant(request["tenant"])
            admin.create_database(request["name"], tenant=request.get("tenant") or "default_tenant")
            return None
        client = self._opened(request.get("tenant"), request.get("database"))
        if request["do"] == "create":
            client.create_collection(request["name"], embedding_function=None, **request["options"])
            return None
        if request["do"] == "drop":
            client.delete_collection(request["name"])
            return None
        collection = client.get_collection(request["name"], embedding_function=None)
        if request["do"] == "all":
            got = collection.get(include=["embeddings", "documents", "metadatas"])
            rows = zip(got["ids"], got["embeddings"], got["documents"], got["metadatas"], strict=True)
            return {name: [[float(x) for x in vector], document, metadata] for name, vector, document, metadata in rows}
        if request["do"] == "query":
            return collection.query(query_embeddings=[request["vector"]], n_results=request["n"])["ids"][0]
        return getattr(collection, request["do"])(**request["arguments"])


def main() -> None:
    client = Client(sys.argv[1], "gate" in sys.argv[2:])
    for line in sys.stdin:
        try:
            answer = {"ok": client.call(json.loads(line))}
        except Exception as problem:  # noqa: BLE001 - the test decides what to make of it
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
