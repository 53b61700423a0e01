"""Turns texts into vectors.

An embedder returns unit vectors; the cosine of two of them is the similarity of the texts. Its `model` is stored with every
vector, because vectors of different models cannot be compared.

numpy is loaded with the first vector: it would add a tenth to the start of every management command.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, Any, Protocol

from django.conf import settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float32]

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_SLOTS = 8
_COMMON = """
a about after all also an and any are as at be because been before being between both but by can could did
do does doing each few for from further had has have having he her here hers him his how i if in into is it
its itself just may me more most my no nor not of off on once one only or other our ours out over own same
she should so some such than that the their them then there these they this those through to too under until
up upon us very was we were what when where which while who whom why will with within without would you your
"""
_STOP_WORDS = frozenset(_COMMON.split())


class EmbeddingUnavailable(Exception):
    """The configured embedding cannot be used here. The message says what to do."""


class Embedder(Protocol):
    """Turns texts into vectors of one model."""

    model: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> Matrix:
        """One row of `dimension` numbers for each text; each row has length 1."""
        ...


class HashedWords:
    """Words hashed into a fixed number of slots ("feature hashing"); needs no model file.

    Each word adds its sublinear count to eight slots, with signs, both chosen by its hash. Two different words rarely share
    more than a slot or two, and such collisions cancel out on average. It finds shared words, not synonyms. The model's name
    changes whenever the same text would give another vector.
    """

    model = "hashed-words-1"
    dimension = 384

    def embed(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        matrix = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word, count in Counter(_words(text)).items():
                for slot, sign in _places(word):
                    matrix[row, slot % self.dimension] += sign * (1 + log(count))
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return matrix


class ChromaMiniLM:
    """Chroma's all-MiniLM-L6-v2 on ONNX, if its files are on this machine. Nothing is downloaded."""

    model = "all-MiniLM-L6-v2"
    dimension = 384

    def __init__(self) -> None:
        try:
            from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

            function: Any = ONNXMiniLM_L6_V2()
        except (ImportError, ValueError) as error:
            raise EmbeddingUnavailable(
                f"REFSERVER_EMBEDDING=chroma needs onnxruntime and tokenizers ({error}); "
                "install them, or set REFSERVER_EMBEDDING=hashing."
            ) from error
        folder = function.DOWNLOAD_PATH / function.EXTRACTED_FOLDER_NAME
        # The files that Chroma checks for; if one is missing, it downloads the archive.
        needed = (
            *("config.json", "model.onnx", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt"),
        )
        missing = [name for name in needed if not (folder / name).is_file()]
        if missing:
            raise EmbeddingUnavailable(
                f"REFSERVER_EMBEDDING=chroma needs {self.model} in {folder}; missing: {', '.join(missing)}. "
                f"Unpack Chroma's onnx.tar.gz into {folder.parent}, or set REFSERVER_EMBEDDING=hashing."
            )
        self._function = function

    def embed(self, texts: Sequence[str]) -> Matrix:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return np.asarray(self._function(list(texts)), dtype=np.float32)


_EMBEDDERS: dict[str, type[HashedWords | ChromaMiniLM]] = {"hashing": HashedWords, "chroma": ChromaMiniLM}


def configured() -> Embedder:
    """The embedder of the setting REFSERVER_EMBEDDING. Raises `EmbeddingUnavailable`."""
    return _made(settings.REFSERVER_EMBEDDING)


@cache
def _made(name: str) -> Embedder:
    return _EMBEDDERS[name]()


def to_blob(vector: npt.NDArray[np.float32]) -> bytes:
    """*vector* as it is stored in SQLite: float32, little-endian."""
    return vector.astype("<f4").tobytes()


def from_blob(blob: bytes | memoryview) -> Matrix:
    """The vector stored in *blob*."""
    import numpy as np

    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def _words(text: str) -> list[str]:
    """The significant words of *text*; at least one, because a zero vector has no direction."""
    words = _WORD.findall(text.lower())
    significant = [_stem(word) for word in words if word not in _STOP_WORDS]
    return significant or words or [text.strip()]


def _places(word: str) -> Iterator[tuple[int, int]]:
    """The slots (modulo the dimension) of *word*, with their signs."""
    digest = blake2b(word.encode(), digest_size=4 * _SLOTS).digest()
    for start in range(0, len(digest), 4):
        number = int.from_bytes(digest[start : start + 4], "little")
        yield number >> 1, 1 if number & 1 else -1


def _stem(word: str) -> str:
    """*word* without a plural ending, so that "networks" finds "network"."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
