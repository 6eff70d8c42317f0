"""Uploaded archives: what `tar` writes is read, everything else is refused at once."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from adapterkit.adapter.checksums import SUMS
from adapterkit.adapter.folder import load_adapter, save_adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.adapter.peft_format import CONFIG
from adapterkit.adapter.store import Store
from adapterkit.adapter.weights import WEIGHTS
from adapterkit.backbone.load_options import LoadOptions
from adapterkit.backbone.model import Backbone
from adapterkit.client.tar import as_tar
from adapterkit.errors import DataError
from adapterkit.serving.app import make_app
from adapterkit.serving.bodies.uploads import unpack
from adapterkit.serving.server import Settings, make_service
from helpers.adapters import MakeAdapter
from helpers.backbone_faults import FOLDER_FAULTS
from helpers.time_limit import limited_time

FILES = {
    "./adapter_config.json": b"{}" * 50,
    "./adapter_model.safetensors": b"x" * 3000,
    "./README.md": b"",
    "./report/curve.png": b"z" * 700,
}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
END = bytes(2 * tarfile.BLOCKSIZE)
TAR = {"content-type": "application/x-tar"}
CPU = LoadOptions(device="cpu")


def archive(tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        folder = tarfile.TarInfo("./report")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1.5  # gives it an extended header
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def header(kind: bytes, content: bytes = b"", size: bytes = b"") -> bytes:
    """One header and its content.

    Args:
        kind: The type of the entry.
        content: Its content.
        size: 12 bytes in place of the size of the content.
    """
    member = tarfile.TarInfo("README.md")
    member.type, member.size = kind, len(content)
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    if size:
        block[124:136] = size
    return with_checksum(bytes(block)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def with_checksum(block: bytes) -> bytes:
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_an_archive_of_every_format_is_read(tar_format: str) -> None:
    files = unpack(io.BytesIO(archive(FORMATS[tar_format])), 10_000)
    assert files == {name.removeprefix("./"): content for name, content in FILES.items()}


EXTENDED = {
    "only digits": b"1" * 60_000,
    "a huge length": b"99999999999999999999 a=b\n",
    "a length of 0": b"0 a=b\n",
    "a length that is too small": b"3 a=b\n",
    "no key": b"6 =b\n\n",
    "no line end": b"6 a=bc",
    "a name": b"18 path=README.md\n",
    "a size": b"10 size=5\n",
    "a negative size": b"14 size=-5000\n",
    "a sparse file": b"22 GNU.sparse.major=1\n",
    "too many bytes": b"8 a=bcd\n" * 10_000,
}


@pytest.mark.parametrize("what", EXTENDED)
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_extended_header_that_changes_a_file_is_refused(what: str, kind: bytes) -> None:
    content = header(kind, EXTENDED[what]) + header(tarfile.REGTYPE, b"text") + END
    with pytest.raises(DataError, match=r"extended|too large"):
        unpack(io.BytesIO(content), 10**8)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, b"L", b"K"])
def test_a_long_chain_of_extended_headers_is_refused(kind: bytes) -> None:
    chain = header(kind, b"10 abcd=e\n") * 5000
    with pytest.raises(DataError, match=r"more than \d+ entries|not a regular file"):
        unpack(io.BytesIO(chain + header(tarfile.REGTYPE) + END), 10**8)


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000001\0", b"x" * 12]
)
@pytest.mark.parametrize("kind", list("0157LKxgSAMV"))
def test_a_size_that_is_not_one_is_refused(kind: str, size: bytes) -> None:
    with pytest.raises(DataError, match=r"not a regular file|not a tar archive"):
        unpack(io.BytesIO(header(kind.encode(), size=size) + b"a" * 2048 + END), 10**8)


def test_an_archive_that_is_cut_off_is_refused() -> None:
    content = archive()
    end = len(content.rstrip(b"\0"))
    for length in range(0, end, 100):
        with pytest.raises(DataError):
            unpack(io.BytesIO(content[:length]), 10**8)


@pytest.mark.parametrize("n_archives", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_changed_archives_are_read_or_refused(n_archives: int, scale: float) -> None:
    rng, n_archives = random.Random(0), round(n_archives * scale)
    outcomes: Counter[str] = Counter()
    whole = {name: archive(number) for name, number in FORMATS.items()}
    for _ in range(n_archives):
        content = bytearray(rng.choice(list(whole.values())))
        for _ in range(rng.choice((1, 1, 2, 4))):
            change(content, rng)
        try:
            unpack(io.BytesIO(content), 10**8)
        except DataError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert outcomes["refused"] > n_archives // 4
    assert outcomes["read"] > n_archives // 10


def change(content: bytearray, rng: random.Random) -> None:
    """Changes a byte, a field of a header, the type of an entry, or repeats a part."""
    start = rng.randrange(len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    block = slice(start, start + tarfile.BLOCKSIZE)
    kind = rng.randrange(4)
    if kind == 0:
        content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 1:
        content[start + rng.choice((0, 99, 124, 130, 157, 257, 345))] = rng.choice(b"\0\x80\xff-79")
        content[block] = with_checksum(bytes(content[block]))
    elif kind == 2:
        content[start + 156] = rng.choice(b"0123456789xgLKSADMNV\0")
        content[block] = with_checksum(bytes(content[block]))
    else:
        content[start:start] = content[start : start + tarfile.BLOCKSIZE * rng.randrange(1, 4)]


@pytest.mark.parametrize("n", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_a_changed_archive_is_published_or_refused_by_a_server(
    tiny: Backbone,
    tiny_folder: Path,
    make_adapter: MakeAdapter,
    n: int,
    scale: float,
    report: Callable[[str], None],
) -> None:
    """One adapter, changed as a folder or as an archive: no other status, and a sound store."""
    sound = save_adapter(make_adapter(tiny), "sound", tiny.geometry)
    store = Store("shelf")
    settings = Settings("shelf", backbones=(str(tiny_folder),), load_options=CPU)
    store.publish(make_adapter(tiny, name="acme/other"), tiny.geometry)
    outcomes, names = Counter[int](), list(FOLDER_FAULTS)
    with TestClient(
        make_app(make_service(settings, None)), raise_server_exceptions=False
    ) as client:
        for seed in range(round(n * scale)):
            rng, folder = random.Random(seed), Path("changed")
            shutil.copytree(sound, folder)
            if rng.random() < 0.7:
                (folder / SUMS).unlink()
            if rng.random() < 0.5:
                FOLDER_FAULTS[rng.choice(names)](folder, rng)
            with limited_time():
                content = bytearray(archive_of(folder))
                if content and rng.random() < 0.6:
                    change(content, rng)
                target = "/admin/adapters/acme/intent"
                outcomes[client.put(target, content=bytes(content), headers=TAR).status_code] += 1
            shutil.rmtree(folder)
    assert set(outcomes) <= {201, 422}
    assert min(outcomes.values()) > 0
    published = Store("shelf").versions("acme/intent")[0]
    assert len(published) == outcomes[201]
    assert all(store.verify(f"acme/intent@{number}") == [] for number in published)
    assert sorted(os.listdir()) == ["shelf", "sound"]
    report(f"{outcomes.total()} uploads by status: {dict(outcomes)}")


def archive_of(folder: Path) -> bytes:
    """The regular files of a folder as an archive, small ones."""
    files = [file for file in folder.iterdir() if file.is_file() and file.stat().st_size < 10**6]
    return as_tar({file.name: file.read_bytes() for file in files if not file.is_symlink()})


@pytest.fixture
def theirs(tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter) -> dict[str, bytes]:
    """A folder as PEFT writes it, of the tiny backbone."""
    adapter = make_adapter(tiny, "lora", labels=("a", "b", "c"), pooling="pooler")
    folder = save_adapter(adapter, "theirs", tiny.geometry)
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, "README.md")}
    return with_config(files, base_model_name_or_path=str(tiny_folder), task_type="SEQ_CLS")


def with_config(files: Mapping[str, bytes], **changes: object) -> dict[str, bytes]:
    return {**files, CONFIG: json.dumps({**json.loads(files[CONFIG]), **changes}).encode()}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def client(shelf: Path, tiny_folder: Path) -> Iterator[TestClient]:
    settings = Settings(str(shelf), backbones=(str(tiny_folder),), load_options=CPU)
    with TestClient(
        make_app(make_service(settings, None)), raise_server_exceptions=False
    ) as client:
        yield client


TARGET = "/admin/adapters/acme/intent"


def test_a_folder_of_peft_is_published_as_if_it_was_imported(
    client: TestClient, shelf: Path, theirs: dict[str, bytes], tiny: Backbone
) -> None:
    query = {"labels": "yes,no,其他", "problem": "multi_label_classification"}
    reply = client.put(TARGET, content=as_tar(theirs), headers=TAR, params=query)
    assert (reply.status_code, reply.json()["version"]) == (201, 1), reply.text
    stored = load_adapter(shelf / "acme/intent/1", tiny)
    assert (stored.name, stored.backbone) == ("acme/intent", tiny.name)
    assert stored.task.labels == ("yes", "no", "其他")  # type: ignore[attr-defined]
    direct = load_foreign_adapter("theirs", tiny)
    assert all(torch.equal(stored.tensors[n], direct.tensors[n]) for n in direct.tensors)
    assert Store(shelf).verify("acme/intent") == []
    body = {"inputs": "where is my card", "adapter_id": "acme/intent"}
    answer = client.post("/predict", json=body).json()
    assert {one["label"] for one in answer} == {"yes", "no", "其他"}
    parts = {name: (name, content) for name, content in theirs.items()}
    again = client.put(TARGET, files=parts)
    assert (again.status_code, again.json()["version"]) == (201, 2), again.text


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no base model": ({"base_model_name_or_path": None}, {}, "its base model is not named"),
    "another base model": ({"base_model_name_or_path": "bert-x"}, {}, "'bert-x' is not loaded"),
    "another choice": ({}, {"backbone": "bert-x"}, "'bert-x' is not loaded"),
    "too few labels": ({}, {"labels": "a,b"}, "2 names for a head of 3 labels"),
    "no problem type": ({}, {"problem": "rank"}, "problem type rank"),
    "an unknown key": ({}, {"label": "a,b,c"}, "did you mean 'labels'?"),
    "no method": ({"peft_type": "OFT"}, {}, "peft_type 'OFT' is not known here"),
    "another method": ({"peft_type": "LOHA", "alpha": 3}, {}, "lora_alpha = 16.0 is not"),
    "garbled": ({"lora_alpha": {"a": 1}}, {}, "lacks or garbles"),
    "unknown settings": ({"new": 3}, {}, "new = 3 is not supported"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_of_peft_that_cannot_be_imported_is_refused_in_one_line(
    client: TestClient, shelf: Path, theirs: dict[str, bytes], what: str
) -> None:
    changes, query, words = REFUSED[what]
    content = as_tar(with_config(theirs, **changes))
    target = "/admin/adapters/acme/refused"
    reply = client.put(target, content=content, headers=TAR, params=query)
    assert reply.status_code == 422, reply.text
    message = reply.json()["error"]
    assert words in message
    assert "\n" not in message
    assert "/folder" not in message  # where the upload was unpacked
    assert not (shelf / "acme/refused").exists()


def test_options_of_an_import_are_for_folders_of_peft(
    client: TestClient, theirs: dict[str, bytes], tiny_folder: Path
) -> None:
    folder = Path("theirs")
    own = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    reply = client.put(TARGET, content=as_tar(own), headers=TAR, params={"labels": "a,b,c"})
    assert (reply.status_code, "are for folders of PEFT" in reply.text) == (422, True)
    renamed = with_config(theirs, base_model_name_or_path="bert-x")
    chosen = {"backbone": str(tiny_folder)}
    assert client.put(TARGET, content=as_tar(renamed), headers=TAR, params=chosen).is_success
    del theirs[WEIGHTS]
    reply = client.put(TARGET, content=as_tar(theirs), headers=TAR)
    assert (reply.status_code, f"{WEIGHTS} is missing" in reply.text) == (422, True)
    # A folder of adapterkit whose card was lost is none of PEFT.
    del own["adapterkit.json"]
    reply = client.put(TARGET, content=as_tar(own), headers=TAR)
    assert (reply.status_code, "adapterkit.json" in reply.text) == (422, True)
