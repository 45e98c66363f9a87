"""Token files whose type is told by nothing but their content: what was written wider or narrower is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from test_own_sources import write_tokens

from scaling import data
from scaling.data._tokens import TokenSource
from scaling.errors import Code


def tokens(vocab: int = 50_257, count: int = 30_000) -> np.ndarray:
    """Tokens as frequent as words are: most of them small."""
    return np.random.default_rng(0).zipf(1.2, 4 * count)[: 4 * count] % vocab


def load(path: Path, vocab: int = 50_257, **fields) -> TokenSource:
    made = data.load({"source": "bin", "path": str(path), "vocab": vocab, "block": 64, **fields})
    assert isinstance(made, TokenSource)
    return made


@pytest.mark.parametrize(
    ("written", "read", "vocab"),
    [
        ("<i4", "uint16", 50_257),
        ("<u4", "uint16", 65),
        ("<i8", "uint16", 50_257),
        ("<i8", "uint32", 50_257),
        ("<i8", "uint32", 100_277),
    ],
)
def test_wider_integers_are_not_read_as_twice_as_many(tmp_path, written, read, vocab):
    tokens(vocab).astype(written).tofile(tmp_path / "a.bin")
    with refuses(Code.CONFLICT, "data.dtype", read) as caught:
        load(tmp_path / "a.bin", vocab, dtype=read)
    assert ("int64" if written == "<i8" else "uint32") in caught.value.remedy


def test_a_large_vocabulary_written_wider_is_seen_too(tmp_path):
    """Upper halves are then 0 and 1, and -1 where a target was masked."""
    found = tokens(100_277).astype("<i4")
    found[77] = -1
    found.tofile(tmp_path / "a.bin")
    with refuses(Code.CONFLICT, "data.dtype", "uint16"):
        load(tmp_path / "a.bin", 65_536)
    found[77] = 1
    found.tofile(tmp_path / "a.bin")
    np.testing.assert_array_equal(load(tmp_path / "a.bin", 100_277, dtype="uint32").train[:999], found[:999])


@pytest.mark.parametrize("vocab", [2, 4, 65, 50_257, 65_536])
def test_tokens_of_any_vocabulary_are_read_as_they_are(tmp_path, vocab):
    found = tokens(vocab)
    for kind, dtype in (("<u2", "uint16"), ("<i4", "uint32")):
        found.astype(kind).tofile(tmp_path / "a.bin")
        np.testing.assert_array_equal(load(tmp_path / "a.bin", vocab, dtype=dtype).train[:999], found[:999])


@pytest.mark.parametrize("vocab", [65_537, 100_277])
def test_a_vocabulary_that_the_type_cannot_hold(tmp_path, vocab):
    (tokens() % 65_536).astype("<u2").tofile(tmp_path / "a.bin")
    with refuses(Code.CONFLICT, "data.vocab", vocab):
        load(tmp_path / "a.bin", vocab)


def test_a_pickled_vocabulary_is_asked_for_and_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was loaded')",))

    tokens(65).astype("<u2").tofile(tmp_path / "train.bin")
    fields = {"source": "bin", "path": str(tmp_path), "block": 64}
    assert data.load(fields).vocab == 50_257  # nothing says that it is another
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path, tmp_path / "train.bin"):
        with refuses(Code.MISSING, "data.vocab"):
            data.load({**fields, "path": str(path)})
    made = data.load({**fields, "vocab": 65})
    assert made.vocab == 65 and made.describe() == load(tmp_path, 65).describe()


@pytest.mark.parametrize(("magic", "version", "kind"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_both_headers_of_llmc(tmp_path, magic, version, kind):
    found, header = tokens(60_000), np.zeros(256, "<i4")
    header[:3] = magic, version, len(found)
    (tmp_path / "a.bin").write_bytes(header.tobytes() + found.astype(kind).tobytes())
    found.astype(kind).tofile(tmp_path / "raw.bin")
    raw = load(tmp_path / "raw.bin", 60_000, dtype="uint16" if kind == "<u2" else "uint32")
    assert load(tmp_path / "a.bin", 60_000).describe() == raw.describe()
    header[1] += 1
    (tmp_path / "a.bin").write_bytes(header.tobytes() + found.astype(kind).tobytes())
    with refuses(Code.UNSUPPORTED, "data.path", tmp_path / "a.bin"):
        load(tmp_path / "a.bin", 60_000)


@pytest.mark.parametrize(
    ("written", "fields", "field"),
    [
        ("<i4", {"dtype": "uint16", "vocab": 60_000}, "data.dtype"),
        ("<i8", {"dtype": "uint32", "vocab": 60_000}, "data.dtype"),
        ("<u2", {"vocab": 60_000}, "data.dtype"),  # as text
        ("<u2", {"dtype": "uint16", "vocab": 100_277}, "data.vocab"),
    ],
)
def test_records_of_another_width(tmp_path, written, fields, field):
    rows = np.split(tokens(60_000).astype(written), 120)
    path = write_tokens(tmp_path / "a.array_record", rows)
    with refuses(Code.CONFLICT, field):
        data.load({"source": "arrayrecord", "path": str(path), **fields})


def test_records_of_tokens_of_a_byte_are_no_text(tmp_path):
    rows = np.split(np.random.default_rng(0).integers(0, 25, 12_000).astype("u1"), 120)  # amino acids
    path = write_tokens(tmp_path / "a.array_record", rows)
    made = data.load({"source": "arrayrecord", "path": str(path), "vocab": 25})
    assert made.vocab == 25 and made.describe()["documents"] == 120
    with refuses(Code.CONFLICT, "data.dtype"):
        data.load({"source": "arrayrecord", "path": str(path)})
