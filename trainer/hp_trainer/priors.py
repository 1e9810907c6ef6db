"""What is known about parts before training: who touches whom, and which names mean alike.

`intra_matrix` is the M_intra of Eq. 6, `static_cross` the M_cross^static of Eq. 8. Their numbers
lie in `tables/`: three published GloVe tables, and the body atoms that every built-in label covers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError

Matrix = NDArray[np.float32]
Similarity = Callable[[str, str], float]

SOURCES = ("auto", "glove", "atoms", "onehot")
BACKGROUND = "background"

_DATA = Path(__file__).with_name("tables")
_GLOVE_PAIRS = (("pascal", "cihp"), ("pascal", "atr"), ("cihp", "atr"))
_GLOVE_TWIN = {"lip": "cihp"}  # same labels but one, which no published table has
_NEIGHBOUR = 0.35  # entry of K for two adjacent atoms
_COVER, _LAYER = 0.7, 0.3  # shares of body cover and of layer in the similarity
_LAYER_ANY = 0.75  # a label of layer "any" (PASCAL's bare parts) against a layer of its own

_EMBEDDING_FORMAT = (
    "is no GloVe or word2vec text file with words of these labels; every line must be one word and "
    "then its numbers, equally many on each line"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """What a label covers: body atoms, and the layer over them (skin, cloth, acc, …, any)."""

    atoms: frozenset[str]
    layer: str


def intra_matrix(domain: Domain, *, self_loops: bool = True) -> Matrix:
    """M_intra: 1 where two parts of one domain are neighbours, else 0.

    Uses the published edges. A domain without edges gets an edge where the atoms of two labels
    meet or touch; a label without atoms is a neighbour of every part (Eq. 5), with a notice.

    Returns:
        (Z, Z) float32 in {0, 1}, symmetric; background has no neighbour but itself.

    Source: SST, arXiv:2304.04140, Eq. (6); published graphs: Graphonomy.
    """
    edges = domain.edges
    if edges is None:
        edges = tuple(_atom_edges(domain))
    matrix = np.zeros((domain.num_classes, domain.num_classes), np.float32)
    for i, j in edges:
        matrix[i, j] = matrix[j, i] = 1.0
    np.fill_diagonal(matrix, float(self_loops))
    return matrix


def static_cross(
    b: Domain, a: Domain, *, source: str = "auto", embeddings: str | Path | None = None
) -> Matrix:
    """M_cross^static from domain `a` to domain `b`: how alike their part names are.

    `source` is one of `SOURCES`: "glove" the published cosines (pascal, atr, cihp, and lip through
    its CIHP twin); "atoms" the similarity of the covered body atoms; "onehot" equal names; "auto"
    glove where published, else atoms, else (labels without atoms, with a notice) equal names.
    `embeddings` names a GloVe or word2vec text file, whose cosines then replace all of these.

    Returns:
        (Zb, Za) float32 in [0, 1]; rows are not normalised, and the matrix from `b` to `a` is the
        transpose.

    Raises:
        ConfigError: the source is unknown or has no numbers for this pair, or the file is unusable.

    Source: SST, arXiv:2304.04140, Eq. (8).
    """
    if source not in SOURCES:
        raise ConfigError(f"static_cross is {source!r}; choose one of {', '.join(SOURCES)}")
    rows, columns = _labels(b), _labels(a)
    if embeddings is not None:
        if source != "auto":
            raise ConfigError(
                f"static_cross has both source {source!r} and embeddings {str(embeddings)!r}; "
                'leave source at "auto" to use the file'
            )
        similarity = _embedding_similarity(Path(embeddings), {*rows, *columns})
    else:
        similarity = _builtin_similarity(b, a, source)
    return np.array([[similarity(row, column) for column in columns] for row in rows], np.float32)


def _builtin_similarity(b: Domain, a: Domain, source: str) -> Similarity:
    """The similarity that `source` stands for on this pair of domains."""
    if source == "onehot":
        return _equal_names
    _report_without_atoms(b, a, source)
    if source == "atoms":
        return _atom_similarity
    published = _published(b, a)
    if source == "glove" and not published:
        pairs = ", ".join(f"{x}-{y}" for x, y in _GLOVE_PAIRS)
        raise ConfigError(
            f"no GloVe table is published for {b.name!r} and {a.name!r}, only for {pairs} "
            '(lip counts as cihp); use source="atoms" or give embeddings=PATH'
        )
    return lambda row, column: published.get((row, column), _atom_similarity(row, column))


def _report_without_atoms(b: Domain, a: Domain, source: str) -> None:
    """An error if atoms were asked for by name, else a notice that equal names must do."""
    unknown = ", ".join(_without_atoms([*_labels(b), *_labels(a)]))
    if unknown and source == "atoms":
        raise ConfigError(
            f"{b.name!r} and {a.name!r} have labels without body atoms ({unknown}); "
            'use source="auto", which matches these by name, or give embeddings=PATH'
        )
    if unknown:
        _log.warning(
            "static_cross(%s, %s): no body atoms for %s, so these match by equal names only; "
            "give embeddings=PATH for a finer prior",
            b.name,
            a.name,
            unknown,
        )


def _labels(domain: Domain) -> tuple[str, ...]:
    """The label names, class 0 under one name whatever the domain calls it."""
    return (BACKGROUND, *domain.names[1:])


def _equal_names(u: str, v: str) -> float:
    return float(u == v)


# ---- published GloVe tables ------------------------------------------------------------------


def _published(b: Domain, a: Domain) -> Mapping[tuple[str, str], float]:
    """{(name in b, name in a): cosine}, empty when the pair was never published."""
    row, column = (_GLOVE_TWIN.get(domain.name, domain.name) for domain in (b, a))
    if (row, column) in _GLOVE_PAIRS:
        return _glove_table(row, column)
    if (column, row) in _GLOVE_PAIRS:
        return {(v, u): value for (u, v), value in _glove_table(column, row).items()}
    return {}


@cache
def _glove_table(rows: str, columns: str) -> Mapping[tuple[str, str], float]:
    table = json.loads((_DATA / f"{rows}_{columns}_glove.json").read_text("utf-8"))
    return {
        (row, column): value
        for row, values in zip(table["row_names"], table["values"], strict=True)
        for column, value in zip(table["col_names"], values, strict=True)
    }


# ---- body atoms ------------------------------------------------------------------------------


@cache
def _atom_table() -> tuple[Mapping[str, Part], frozenset[frozenset[str]]]:
    """All known labels, and the pairs of atoms that touch on a body."""
    table = json.loads((_DATA / "atoms.json").read_text("utf-8"))
    labels = table["labels"].items()
    parts = {name: Part(frozenset(part["atoms"]), part["layer"]) for name, part in labels}
    return parts, frozenset(frozenset(pair) for pair in table["neighbours"])


def _without_atoms(labels: Iterable[str]) -> list[str]:
    parts, _ = _atom_table()
    return [label for label in dict.fromkeys(labels) if label != BACKGROUND and label not in parts]


def _atom_similarity(u: str, v: str) -> float:
    """0.7 cos_K + 0.3 layer; 1 for equal names or parts, 0 for background or an unknown label."""
    parts, _ = _atom_table()
    if u == v:
        return 1.0
    if BACKGROUND in (u, v) or u not in parts or v not in parts:
        return 0.0
    p, q = parts[u], parts[v]
    if p == q:
        return 1.0
    cosine = _inner(p, q) / np.sqrt(_inner(p, p) * _inner(q, q))
    return min(_COVER * float(cosine) + _LAYER * _layer_similarity(p.layer, q.layer), 1.0)


def _inner(p: Part, q: Part) -> float:
    """u^T K v of the two indicator vectors, K = I + 0.35 on touching atoms."""
    return len(p.atoms & q.atoms) + _NEIGHBOUR * sum(1 for _ in _touching(p, q))


def _touching(p: Part, q: Part) -> Iterator[tuple[str, str]]:
    _, neighbours = _atom_table()
    return ((x, y) for x in p.atoms for y in q.atoms if frozenset((x, y)) in neighbours)


def _layer_similarity(p: str, q: str) -> float:
    if p == q:
        return 1.0
    return _LAYER_ANY if "any" in (p, q) else 0.0


def _atom_edges(domain: Domain) -> Iterator[tuple[int, int]]:
    """Pairs of classes whose atoms meet or touch; background never does."""
    parts, _ = _atom_table()
    labels = _labels(domain)
    if unknown := _without_atoms(labels):
        _log.warning(
            "intra_matrix(%s): no edges given and no atoms for %s, so these count as neighbours "
            "of every part; give the domain edges for a real graph",
            domain.name,
            ", ".join(unknown),
        )
    for i in range(1, len(labels)):
        for j in range(i + 1, len(labels)):
            p, q = parts.get(labels[i]), parts.get(labels[j])
            if p is None or q is None or p.atoms & q.atoms or any(_touching(p, q)):
                yield i, j


# ---- a user's word vectors -------------------------------------------------------------------


def _embedding_similarity(path: Path, labels: set[str]) -> Similarity:
    """Cosine, clamped to [0, 1], of each label's mean word vector; equal names where none is."""
    words = {label: label.lower().replace("-", " ").replace("_", " ").split() for label in labels}
    vectors = _read_vectors(path, {form for ws in words.values() for w in ws for form in _forms(w)})
    units: dict[str, NDArray[np.float64]] = {}
    for label in sorted(labels):
        known = [form for word in words[label] for form in _first_known(word, vectors)]
        # The sum serves as the mean: a cosine does not see the difference.
        total = np.sum([vectors[form] for form in known], axis=0)
        if length := float(np.linalg.norm(total)):
            units[label] = total / length
    if missing := sorted(labels - units.keys()):
        _log.warning("%s has no vector for %s: equal names only", path.name, ", ".join(missing))

    def similarity(u: str, v: str) -> float:
        if u == v or u not in units or v not in units:
            return _equal_names(u, v)
        return float(np.clip(units[u] @ units[v], 0.0, 1.0))

    return similarity


def _forms(word: str) -> tuple[str, ...]:
    """The word, then its singular where a final "s" says plural."""
    return (word, word[:-1]) if word.endswith("s") and len(word) > 1 else (word,)


def _first_known(word: str, vectors: Mapping[str, object]) -> list[str]:
    """The first form of the word that has a vector; empty for a word out of vocabulary."""
    return [form for form in _forms(word) if form in vectors][:1]


def _read_vectors(path: Path, wanted: set[str]) -> dict[str, NDArray[np.float64]]:
    """The vectors of the wanted words from a GloVe or word2vec text file, read line by line."""
    vectors: dict[str, NDArray[np.float64]] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                word, *numbers = line.split(maxsplit=1) or [""]
                if word in wanted:
                    vectors[word] = np.array(" ".join(numbers).split(), np.float64)
    except OSError as error:
        raise ConfigError(f"embeddings {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"embeddings {str(path)!r} {_EMBEDDING_FORMAT}") from error
    if len({vector.size for vector in vectors.values()}) != 1:
        raise ConfigError(f"embeddings {str(path)!r} {_EMBEDDING_FORMAT}")
    return vectors
