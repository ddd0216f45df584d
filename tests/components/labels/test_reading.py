"""What is said of files: marked, signed, altered, stripped, of others, of nobody."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.errors import UserError
from components.labels import certificates, credentials, formats, rows
from components.labels.formats import FLAC, FORMATS, MP3, OPUS, PCM, PNG, TEXT, WAV
from components.labels.journal import Journal, find, folder_of
from components.labels.marker import BESIDE, Marker, lay_beside, open_marker
from components.labels.reading import read, read_path
from components.modalities.drawing import png
from components.modalities.speech import written
from components.settings import Settings
from components.terms import Terms

LEVELS = (np.sin(np.arange(4000) / 10) * 9000).astype(np.int16)
SOUNDS = {WAV: "wav", FLAC: "flac", MP3: "mp3", OPUS: "opus"}


def picture(seed: int = 0, side: int = 28) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (side, side, 1), dtype=np.uint8)
    return png(levels, (side, side))


def file_of(media: str) -> bytes:
    return picture() if media == PNG else written(LEVELS, 8000, SOUNDS[media])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A project with a key."""
    found = Settings(home=tmp_path_factory.mktemp("home"), producer="Test & Söhne")
    credentials.make(found)
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    """A project without a key."""
    return Settings(home=tmp_path / "home")


def marker(settings: Settings, **terms: Any) -> Marker:
    found = open_marker("mnist", 3, "ab" * 32, Terms(**terms), settings)
    assert found is not None
    return found


def noted(settings: Settings, content: str, version: int = 3, request: str = "r-1") -> None:
    journal = Journal(settings, "mnist")
    journal.add(content, version, 7, request)
    journal.flush()


@pytest.mark.parametrize("media", [PNG, *SOUNDS])
def test_a_marked_file_says_who_made_it(bare: Settings, media: str) -> None:
    file, content = marker(bare).mark(file_of(media), media, 7)
    found = read(file, bare)
    assert (found.verdict, found.media_type, found.content) == ("marked", media, content)
    assert found.statement is not None
    assert (found.statement.name, found.statement.seed) == ("mnist/3", 7)
    assert "anybody could have written it" in found.sentence
    assert found.standing == "unknown"
    noted(bare, content)
    found = read(file, bare)
    assert found.issued is not None
    assert (found.issued.request, found.issued.seed) == ("r-1", 7)
    assert "for the request r-1" in found.sentence
    assert "anybody" not in found.sentence


@pytest.mark.parametrize("media", [PNG, WAV, FLAC, MP3])
def test_a_signed_file_is_valid_for_c2pa_and_known_here(
    settings: Settings, bare: Settings, media: str
) -> None:
    own = marker(settings, labels="signed")
    assert own.slow
    file, content = own.mark(file_of(media), media, 7)
    assert FORMATS[media].content(file) == FORMATS[media].content(file_of(media)) == content
    with c2pa.Reader(media, io.BytesIO(file)) as reader:
        store = json.loads(reader.json())
    assert store["validation_state"] == "Valid"  # by whom is not known to everybody
    (manifest,) = store["manifests"].values()
    said = {one["label"]: one["data"] for one in manifest["assertions"]}
    (action,) = said["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"]["name"] == "Genloom"
    assert said["org.genloom.statement"] | {"seed": 7, "content": content} == said["org.genloom.statement"]
    assert manifest["title"] == "mnist/3"

    found = read(file, settings)
    assert (found.verdict, found.content) == ("signed", content)
    assert found.signature is not None
    assert (found.signature.state, found.signature.signer) == ("trusted", "Test & Söhne labels")
    assert found.statement is not None
    assert (found.statement.name, found.statement.producer) == ("mnist/3", "Test & Söhne")
    elsewhere = read(file, bare)
    assert elsewhere.verdict == "foreign"
    assert "does not know" in elsewhere.sentence
    assert "mnist/3 made it" in elsewhere.sentence


def test_opus_is_marked_though_c2pa_has_no_place_in_it(settings: Settings) -> None:
    file, _ = marker(settings, labels="signed").mark(file_of(OPUS), OPUS, 7)
    assert read(file, settings).verdict == "marked"


@pytest.mark.parametrize("media", [PNG, WAV, FLAC, MP3])
@pytest.mark.parametrize("where", ["content", "mark"])
def test_a_signed_file_that_was_altered_is_told(settings: Settings, media: str, where: str) -> None:
    file, _ = marker(settings, labels="signed").mark(file_of(media), media, 7)
    broken = bytearray(file)
    places = {PNG: file.find(b"IDAT") + 20, WAV: 2000}
    if where == "content":
        broken[places.get(media, len(file) - 50)] ^= 1
    elif media == PNG:  # a chunk has a checksum, so a whole one goes
        begin = file.find(b"tEXtComment") - 4
        del broken[begin : begin + 12 + int.from_bytes(file[begin : begin + 4], "big")]
    else:
        broken[file.find(b"machine-learning")] ^= 1
    with suppress(UserError) if where == "content" else nullcontext():  # so damaged that nobody hears it
        found = read(bytes(broken), settings)
        assert found.verdict == "altered", found
        assert "altered since it was signed by Test & Söhne labels" in found.sentence


def test_pixels_that_were_changed_under_a_mark_are_told(bare: Settings) -> None:
    file, _ = marker(bare).mark(picture(1), PNG, 7)
    with Image.open(io.BytesIO(file)) as opened:
        info = {name: value for name, value in opened.info.items() if isinstance(value, str)}
        opened.putpixel((3, 3), 255 - opened.getpixel((3, 3)))
        stream = io.BytesIO()
        from PIL.PngImagePlugin import PngInfo

        kept = PngInfo()
        for name, value in info.items():
            kept.add_text(name, value)
        opened.save(stream, "PNG", pnginfo=kept)
    found = read(stream.getvalue(), bare)
    assert found.verdict == "altered"
    assert "made for other content" in found.sentence


def test_a_mark_that_was_put_on_another_picture_is_told(settings: Settings) -> None:
    """Also where its writer has made the hash fit, if servers have kept who made it."""
    mine, content = marker(settings).mark(picture(2), PNG, 7)
    noted(settings, content, version=5)
    found = read(mine, settings)
    assert found.verdict == "altered"
    assert "mnist/3" in found.sentence
    assert "given out by mnist/5" in found.sentence


def test_what_several_have_said_is_held_against_nobody(bare: Settings) -> None:
    own = marker(bare)
    said = json.dumps(answer(own, "Yes.")).encode()
    noted(bare, formats.text_content(b"Yes."), version=9)
    assert read(said, bare).verdict == "marked"
    noted(bare, formats.text_content(b"Yes."), version=3, request="r-own")
    noted(bare, formats.text_content(b"Yes."), version=9)
    found = read(said, bare)
    assert found.issued is not None
    assert (found.verdict, found.issued.request) == ("marked", "r-own")


def test_what_would_write_on_a_terminal_is_no_statement(bare: Settings) -> None:
    own = marker(bare)
    evil = replace(own, about=replace(own.about, product="a\x1b[2Jb"))
    file, _ = evil.mark(picture(8), PNG, 7)
    assert read(file, bare).verdict == "unmarked"


def test_a_stripped_file_is_known_by_its_content(settings: Settings) -> None:
    file, content = marker(settings, labels="signed").mark(picture(3), PNG, 7)
    stream = io.BytesIO()
    with Image.open(io.BytesIO(file)) as opened:
        opened.save(stream, "PNG")  # Pillow writes no field that it is not given
    assert read(stream.getvalue(), settings).verdict == "unmarked"
    noted(settings, content)
    found = read(stream.getvalue(), settings)
    assert found.verdict == "stripped"
    assert found.statement is not None
    assert (found.statement.name, found.statement.seed) == ("mnist/3", 7)


def test_a_file_of_nobody_is_told_so(bare: Settings) -> None:
    found = read(picture(), bare)
    assert (found.verdict, found.statement, found.signature, found.standing) == ("unmarked", None, None, None)


def test_a_text_is_known_by_the_statement_beside_it_or_by_its_hash(bare: Settings, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Once upon a time\n", encoding="utf-8")
    assert read_path(path, bare).verdict == "unmarked"
    lay_beside(marker(bare), path, TEXT, 7)
    assert read_path(path, bare).verdict == "marked"
    path.write_text("Once upon a crime\n", encoding="utf-8")
    assert read_path(path, bare).verdict == "altered"
    lay_beside(None, path, TEXT, 7)
    assert not (tmp_path / f"a.txt{BESIDE}").exists()
    noted(bare, formats.text_content(b"Once upon a crime"))
    assert read_path(path, bare).verdict == "stripped"


def test_bare_levels_are_known_by_the_statement_beside_them(bare: Settings, tmp_path: Path) -> None:
    path = tmp_path / "a.pcm"
    path.write_bytes(LEVELS.tobytes())
    lay_beside(marker(bare), path, PCM, 7)
    found = read_path(path, bare)
    assert (found.verdict, found.media_type) == ("marked", PCM)
    other = tmp_path / "a.of_another_kind"
    other.write_bytes(b"\x00\xff\x00")
    lay_beside(marker(bare), other, "", 7)
    assert read_path(other, bare).verdict == "marked"
    other.write_bytes(b"\x00\xff\x01")
    assert read_path(other, bare).verdict == "altered"


def answer(own: Marker, *texts: str) -> dict[str, Any]:
    told = own.told([formats.text_content(text.encode()) for text in texts])
    return {"choices": [{"text": text} for text in texts], "genloom": told}


def test_an_answer_in_json_is_read_by_its_field(bare: Settings) -> None:
    content = answer(marker(bare), "one", "two")
    found = read(json.dumps(content).encode(), bare)
    assert (found.verdict, found.media_type) == ("marked", "application/json")
    noted(bare, formats.text_content(b"one"))
    content["choices"][1]["text"] = "three"
    found = read(json.dumps(content).encode(), bare)
    assert found.verdict == "altered"
    assert "its mark is that of mnist/3, made for other content" in found.sentence
    chat = {**answer(marker(bare), "hi"), "choices": [{"message": {"content": "hi"}}]}
    assert read(json.dumps(chat).encode(), bare).verdict == "marked"


def test_parquet_is_read_by_its_metadata(bare: Settings) -> None:
    table = pa.table({"seed": [1, 2], "content": [b"one", None]})
    hashed = rows.Content()
    hashed.add([b"one", None])

    def file(content: Any, said: str) -> bytes:
        about = {"model": "mnist", "version": "3", "digest": "ab" * 32, **rows.metadata(marker(bare).field)}
        meta = {f"genloom.{name}": value for name, value in about.items()}
        stream = io.BytesIO()
        with pq.ParquetWriter(stream, content.schema.with_metadata(meta)) as writer:
            writer.write_table(content.cast(content.schema.with_metadata(meta)))
            writer.add_key_value_metadata({rows.CONTENT: said})
        return stream.getvalue()

    assert read(file(table, hashed.hex), bare).verdict == "marked"
    other = pa.table({"seed": [1, 2], "content": [b"one", b"two"]})
    assert read(file(other, hashed.hex), bare).verdict == "altered"
    plain = io.BytesIO()
    pq.write_table(table, plain)
    assert read(plain.getvalue(), bare).verdict == "unmarked"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02\x03", "no kind of file that Genloom makes"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "damaged"),
        (b"fLaC\x00\x00", "damaged"),
        (b"OggS" + bytes(40), "damaged"),
        (b"PAR1" + bytes(40), "damaged"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(bare: Settings, file: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read(file, bare)


def test_a_caption_leaves_the_pixels_above_it(bare: Settings) -> None:
    for side in (8, 28, 200):
        file, _ = marker(bare, visible=True).mark(picture(4, side), PNG, 7)
        whole, own = (np.asarray(Image.open(io.BytesIO(one))) for one in (file, picture(4, side)))
        assert np.array_equal(whole[:side, :side], own)
        assert (whole[side:] < 100).any(), "letters"
        assert read(file, bare).verdict == "marked"


def test_the_key_is_for_its_owner_and_replaced_only_on_purpose(settings: Settings) -> None:
    folder = credentials.folder_of(settings)
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    with pytest.raises(UserError, match="There is a key already"):
        credentials.check_free(settings)
    before, _ = marker(settings, labels="signed").mark(picture(5), PNG, 7)
    credentials.make(settings)
    after, _ = marker(settings, labels="signed").mark(picture(5), PNG, 7)
    assert [read(file, settings).verdict for file in (before, after)] == ["signed", "signed"]


def test_without_a_key_nothing_is_signed(bare: Settings) -> None:
    with pytest.raises(UserError, match=r"products\.mnist says labels: signed and there is no key yet"):
        marker(bare, labels="signed")
    assert open_marker("mnist", 3, "ab" * 32, Terms(labels="none"), bare) is None


def rsa_pair() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root, own = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    authority = certificates.issued("authority", "shop", root, None, root)
    leaf = certificates.issued("shop", "shop", own, authority, root)
    pems = [one.public_bytes(Encoding.PEM) for one in (leaf, authority)]
    return b"".join(pems), own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_an_operator_may_sign_with_his_own_key(bare: Settings) -> None:
    credentials.keep(bare, *rsa_pair())
    file, _ = marker(bare, labels="signed").mark(picture(), PNG, 7)
    found = read(file, bare)
    assert found.verdict == "signed"
    assert found.signature is not None
    assert found.signature.signer == "shop"


def test_another_signer_of_the_same_issuer_is_not_taken_for_ours(bare: Settings) -> None:
    """As two customers of one authority are."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root, middle, *keys = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    top = certificates.issued("root", "authority", root, None, root)
    between = certificates.issued("between", "authority", middle, top, root, authority=True)
    names = ("shop", "rival")
    leaves = [
        certificates.issued(name, name, key, between, middle) for name, key in zip(names, keys, strict=True)
    ]
    chains = [b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, between, top)) for leaf in leaves]
    pems = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys]
    credentials.keep(bare, chains[0], pems[0])
    ours, _ = marker(bare, labels="signed").mark(picture(), PNG, 7)
    about = marker(bare).about
    theirs = credentials.Sealer(chains[1], pems[1]).seal(picture(), PNG, about)
    assert [read(file, bare).verdict for file in (ours, theirs)] == ["signed", "foreign"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda chain, key, other: (b"nothing", key), "none in PEM"),
        (lambda chain, key, other: (chain, b"nothing"), "no private key in PEM"),
        (lambda chain, key, other: (chain, other), "this key|cannot sign"),
        (lambda chain, key, other: (chain[chain.rindex(b"-----BEGIN") :], key), "self-signed"),
        (lambda chain, key, other: (chain[: chain.rindex(b"-----BEGIN")], key), "its issuer is missing"),
    ],
    ids=["no certificate", "no key", "another's key", "the authority's certificate", "no issuer"],
)
def test_a_pair_that_does_not_fit_is_refused_before_it_is_kept(
    bare: Settings, change: Callable[..., tuple[bytes, bytes]], sentence: str
) -> None:
    chain, key = certificates.made("shop")
    with pytest.raises(UserError, match=sentence):
        credentials.keep(bare, *change(chain, key, certificates.made("other")[1]))
    assert not credentials.folder_of(bare).exists()


def test_the_journal_keeps_what_comes_at_once_and_prunes_old_days(bare: Settings) -> None:
    journal = Journal(bare, "mnist")
    old = folder_of(bare, "mnist") / "2020-01-01.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text("{}\n")
    for seed in range(2000):
        journal.add(f"{seed:064x}", 3, seed, "“r”\n")
    journal.flush()
    found = find(bare, f"{1234:064x}")
    assert found is not None
    assert (found.product, found.version, found.seed, found.request) == ("mnist", 3, 1234, "“r”\n")
    assert find(bare, "f" * 64) is None
    assert not old.exists()
    (path,) = old.parent.glob("*.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(path.read_text()[:-30])  # as a crash leaves it
    assert find(bare, f"{1999:064x}") is None
    assert replace(found, seed=0) != found
