"""Fetching from a hub that cuts connections, changes its mind or says no."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from scripts import _client
from scripts import hub as fetching
from scripts.datasets import check_rows
from scripts.hub import Source, fetch, listing
from scripts.run.errors import UserError
from tests.conftest import Copy
from tests.hub import COMMIT, Hub, running

CONTENT = bytes(range(256)) * 40_000  # 10 MB
SOURCE = Source("datasets", "numbers", "owner/numbers", COMMIT)
STORED = Path("results/store/sources/numbers", COMMIT)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetching, "WAITS", [0, 0])
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000_000)  # it is 10 MB; a chunk that is cut is lost
        hub.repositories["datasets/owner/numbers"] = {"data/a.bin": CONTENT, "b.jsonl": b'{"n": 1}\n{"n": 2}\n'}
        hub.plain.add("b.jsonl")
        yield hub


def test_files_are_fetched_once(hub: Hub):
    paths = fetch(SOURCE, ["data/a.bin", "b.jsonl"])
    assert paths["data/a.bin"].read_bytes() == CONTENT
    asked = len(hub.requests)
    assert fetch(SOURCE, ["data/a.bin"]) == {"data/a.bin": paths["data/a.bin"]}
    assert len(hub.requests) == asked


def test_a_cut_download_goes_on_where_it_was(hub: Hub):
    """Cut until the job gives up, then in another job: no byte is served twice."""
    hub.faults = [("cut", 4_000_000), 503, 503, 503]
    with pytest.raises(UserError, match="503"):
        fetch(SOURCE, ["data/a.bin"])
    assert (STORED / "parts/data/a.bin").stat().st_size == 4_000_000
    assert not (STORED / "files/data/a.bin").exists()
    before = hub.bytes_served
    assert fetch(SOURCE, ["data/a.bin"])["data/a.bin"].read_bytes() == CONTENT
    assert hub.bytes_served - before == len(CONTENT) - 4_000_000


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(hub: Hub, status: int):
    hub.faults = [status]
    assert fetch(SOURCE, ["b.jsonl"])["b.jsonl"].read_bytes() == b'{"n": 1}\n{"n": 2}\n'


@pytest.mark.parametrize("file", ["data/a.bin", "b.jsonl"])
def test_changed_content_behind_a_revision_is_refused(hub: Hub, file: str):
    """Whether the hub states a digest (LFS) or only the first fetch knows it."""
    path = fetch(SOURCE, [file])[file]
    first = json.loads((STORED / "listing.json").read_text())["files"][file]["sha256"]
    path.unlink()
    changed = hub.repositories["datasets/owner/numbers"][file].replace(b"1", b"7")
    hub.repositories["datasets/owner/numbers"][file] = changed
    with pytest.raises(UserError, match=f"{file} has sha256 [0-9a-f]{{64}} .* but should have {first}"):
        fetch(SOURCE, [file])
    assert not path.exists()


def test_a_damaged_copy_in_the_store_is_fetched_anew(hub: Hub):
    path = fetch(SOURCE, ["b.jsonl"])["b.jsonl"]
    path.write_bytes(b'{"n": 1}\n{"n": 3}\n')
    assert fetch(SOURCE, ["b.jsonl"])["b.jsonl"].read_bytes() == b'{"n": 1}\n{"n": 2}\n'


def test_content_other_than_the_hub_states_is_refused(hub: Hub):
    hub.stated["data/a.bin"] = "f" * 64
    with pytest.raises(UserError, match=r"should have f{64}"):
        fetch(SOURCE, ["data/a.bin"])


def test_seven_digits_of_a_commit_are_completed(hub: Hub):
    short = Source("datasets", "numbers", "owner/numbers", COMMIT[:7])
    fetch(short, ["b.jsonl"])
    assert f"datasets/owner/numbers/resolve/{COMMIT}/b.jsonl" in hub.requests
    with pytest.raises(UserError, match=r"numbers \(owner/numbers at fffffff\): no such revision; take one from https"):
        listing(Source("datasets", "numbers", "owner/numbers", "fffffff"))


def test_missing_files_repositories_and_revisions_are_named(hub: Hub):
    with pytest.raises(UserError, match=r"no file c.bin; the repository has b.jsonl, data/a.bin"):
        fetch(SOURCE, ["c.bin"])
    with pytest.raises(UserError, match=r"owner/letters.*404.*see that https://huggingface.co/datasets/owner/letters"):
        listing(Source("datasets", "letters", "owner/letters", COMMIT))
    with pytest.raises(UserError, match="no such revision"):
        listing(Source("datasets", "numbers", "owner/numbers", "f" * 40))


def test_gated_data_name_the_page_and_the_variable(hub: Hub):
    hub.gated = True
    with pytest.raises(
        UserError, match=r"accept its terms on https://huggingface.co/datasets/owner/numbers .*HF_TOKEN"
    ):
        fetch(SOURCE, ["b.jsonl"])


def test_without_a_network_a_copy_is_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"no connection .*local\.datasets\.numbers"):
        fetch(SOURCE, ["b.jsonl"])


def test_a_disk_too_small_is_refused_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 2_000_000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB, 0\.0 GB are free"):
        fetch(SOURCE, ["data/a.bin"])
    assert not any("resolve" in request for request in hub.requests)


def test_more_than_is_stated_is_cut_off(hub: Hub):
    """Half a gigabyte behind 18 bytes: it ends at the stated size, and what came is not kept."""
    hub.faults = [("more", 500_000_000)]
    with pytest.raises(UserError, match="sends more than the 18 bytes that it stated"):
        fetch(SOURCE, ["b.jsonl"])
    assert hub.bytes_served < 50_000_000
    assert not list(STORED.rglob("b.jsonl"))
    assert fetch(SOURCE, ["b.jsonl"])["b.jsonl"].read_bytes() == b'{"n": 1}\n{"n": 2}\n'


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("asked", [listing, lambda source: fetch(source, ["b.jsonl"])], ids=["listing", "file"])
def test_nothing_is_unpacked_that_was_not_asked_for(hub: Hub, asked: Callable, encoding: str):
    if asked is not listing:
        listing(SOURCE)
    hub.extra = {"Content-Encoding": encoding}
    with pytest.raises(UserError, match=f"127.0.0.1 answers in '{encoding}', which it was not asked for"):
        asked(SOURCE)
    hub.extra = {}
    assert {headers["Accept-Encoding"] for headers in hub.headers} == {"identity"}


def test_an_endless_listing_is_cut_off(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_client, "ANSWER_LIMIT", 1 << 20)
    hub.listing = b'{"id": "' + b"x" * 3_000_000 + b'"}'
    with pytest.raises(UserError, match=r"127.0.0.1 answers with more than 1 MiB"):
        listing(SOURCE)


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    """Not to whom an answer names as the next page, nor to another port of the same host."""
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    with running() as other:
        other.repositories = hub.repositories
        hub.extra = {"Link": f'<{other.url}/api/datasets/owner/numbers/commits/main?p=1>; rel="next"'}
        fetching._read_listing(Source("datasets", "numbers", "owner/numbers", COMMIT[:7]))
        assert [headers.get("authorization") for headers in other.headers] == [None]
        assert {headers["authorization"] for headers in hub.headers} == {"Bearer hf_secretsecret"}


def test_small_files_are_compared_with_the_hubs_blob(hub: Hub):
    """On the first fetch, too, when no SHA-256 is known of what is not in LFS."""
    hub.blobs["b.jsonl"] = "a" * 40
    with pytest.raises(UserError, match=f"b.jsonl has sha256 .* but should have {'a' * 40}"):
        fetch(SOURCE, ["b.jsonl"])
    assert not list(STORED.rglob("b.jsonl"))


FILE = {"rfilename": "b.jsonl", "size": 18, "blobId": "0" * 40}
LISTINGS = {
    "no JSON": b"<html>",
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "no files": {"siblings": None},
    "files that are a text": {"siblings": "b.jsonl"},
    "files that are numbers": {"siblings": [1]},
    "a file without a name": {"siblings": [{"size": 1}]},
    "a name that is a list": {"siblings": [FILE | {"rfilename": ["b.jsonl"]}]},
    "a size that is null": {"siblings": [FILE | {"size": None}]},
    "a size that is a text": {"siblings": [FILE | {"size": "18"}]},
    "a size below zero": {"siblings": [FILE | {"size": -1}]},
    "a size that is true": {"siblings": [FILE | {"size": True}]},
    "a size beyond all disks": {"siblings": [FILE | {"size": 1 << 62}]},
    "a digest that is none": {"siblings": [FILE | {"lfs": {"sha256": "x", "size": 18, "pointerSize": 1}}]},
    "a digest that is a number": {"siblings": [FILE | {"lfs": {"sha256": 1, "size": 18, "pointerSize": 1}}]},
    "LFS without a digest": {"siblings": [FILE | {"lfs": {"size": 18}}]},
    "a blob with a line feed": {"siblings": [FILE | {"blobId": "0" * 40 + "\n"}]},
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_of_another_form_is_said_in_words(hub: Hub, name: str):
    found = LISTINGS[name]
    hub.listing = (
        found if isinstance(found, bytes) else json.dumps({"id": "owner/numbers", "sha": COMMIT} | found).encode()
    )
    with pytest.raises(
        UserError, match=r"^datasets numbers \(owner/numbers at .*what the hub says of it is no listing"
    ):
        listing(SOURCE)
    assert not (STORED / "listing.json").exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '{"commit": 1}', json.dumps({"commit": COMMIT, "files": {"a": {}}})]
)
def test_a_damaged_listing_of_the_store_is_named(hub: Hub, content: str):
    STORED.mkdir(parents=True)
    (STORED / "listing.json").write_text(content)
    with pytest.raises(UserError, match=r"listing.json is damaged: delete it"):
        listing(SOURCE)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "data/../../x"])
def test_names_stay_below_the_folder(hub: Hub, name: str):
    hub.repositories["datasets/owner/numbers"][name] = b"x"
    with pytest.raises(UserError, match="is no name of a file below a folder"):
        fetch(SOURCE, [name])


ROWS = {
    "a.csv": b'id,text\n1,"two\nlines"\n2,b\n',
    "a.jsonl": '{"t": "a\u2028b"}\n{"t": "c"}\n\n'.encode(),
    "a.jsonl.zst": pa.compress('{"t": "a\u2028b"}\n{"t": "c"}\n'.encode(), codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", [*ROWS, "a.parquet"])
def test_another_number_of_rows_is_refused(tmp_path: Path, name: str):
    if name == "a.parquet":
        pq.write_table(pa.table({"t": ["a", "b"]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(ROWS[name])
    check_rows("numbers", {name: tmp_path / name}, 2)
    with pytest.raises(UserError, match=rf"datasets numbers: 2 rows in .*{name}, but config/datasets.tsv says 3"):
        check_rows("numbers", {name: tmp_path / name}, 3)


def test_the_stage_fetches_with_a_token_that_stays_secret(copy: Copy):
    """As snakemake runs it: HF_ENDPOINT and HF_TOKEN from the environment; the token is only ever a header."""
    with running() as hub:
        hub.repositories["datasets/owner/numbers"] = {"b.jsonl": b'{"n": 1}\n{"n": 2}\n'}
        table = copy.root / "config/datasets.tsv"
        row = f"numbers\t\tno\towner/numbers\t{COMMIT}\tb.jsonl\t2\tMIT\tno\t18\t"
        table.write_text(f"{table.read_text()}{row}\n")
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secretsecret"}
        target = "results/datasets/numbers/manifest.json"
        done = copy.snakemake("--cores", "1", target, **environment)
        assert done.returncode == 0, done.stderr
        assert {headers["authorization"] for headers in hub.headers} == {"Bearer hf_secretsecret"}
    folder = copy.root / "results/datasets/numbers"
    assert (folder / "files/b.jsonl").stat().st_nlink == 2
    written = [p.read_bytes() for p in (copy.root / "results").rglob("*") if p.is_file()]
    assert not any(b"hf_secretsecret" in text for text in [*written, (done.stdout + done.stderr).encode()])
    record = json.loads((folder / "record.json").read_text())
    assert record["wildcards"] == {"dataset": "numbers"}
