"""A folder in an object store, through fsspec."""

import time
from pathlib import Path

import pytest

from components.errors import ModelError, ParameterError, StorageError
from components.models import model_folder
from components.store import MARKER, Store


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}"


@pytest.fixture
def store(uri: str) -> Store:
    return Store(uri)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them in a folder."""
    (tmp_path / "given" / "inner").mkdir(parents=True)
    (tmp_path / "given" / "one").write_bytes(b"1")
    (tmp_path / "given" / "inner" / "two").write_bytes(b"22")
    return tmp_path / "given"


def test_what_goes_up_comes_down_the_same(store: Store, folder: Path, tmp_path: Path) -> None:
    assert store.list() == {}
    store.at("there").put(folder)
    assert list(store.list()) == ["there/inner/two", "there/one"]
    store.at("there").get(tmp_path / "back")
    assert {path.relative_to(tmp_path / "back").as_posix(): path.read_bytes() for path in files(tmp_path / "back")} == {
        "one": b"1",
        "inner/two": b"22",
    }
    store.write("small", b"text")
    assert (store.read("small"), store.read("missing")) == (b"text", None)
    assert time.time() - store.last_written()["there"] < 60


def test_what_is_removed_is_gone_and_may_be_removed_again(store: Store, folder: Path) -> None:
    store.at("there").put(folder)
    store.write(f"there/{MARKER}", b"{}")
    store.write("other", b"")
    store.remove("there")
    store.remove("there")
    assert list(store.list()) == ["other"]


def test_a_folder_on_a_mounted_disk_is_a_store_too(folder: Path, tmp_path: Path) -> None:
    store = Store((tmp_path / "mounted").as_uri())
    store.at("a/b").put(folder)
    assert sorted(store.list()) == ["a/b/inner/two", "a/b/one"]
    assert (tmp_path / "mounted" / "a" / "b" / "one").read_bytes() == b"1"
    assert store.last_written()["a"] == pytest.approx(time.time(), abs=60)


def test_a_store_that_is_unknown_or_refuses_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ParameterError, match="cannot open nowhere://bucket: Protocol not known: nowhere"):
        Store("nowhere://bucket")
    (tmp_path / "taken").write_text("a file")
    store = Store((tmp_path / "taken").as_uri())
    for attempt in (lambda: store.put(folder), lambda: store.write("x", b"")):
        with pytest.raises(StorageError, match=r"cannot write file://\S+/taken/\S+: .*Not a directory|File exists"):
            attempt()


def test_a_model_at_a_uri_is_copied_once(
    store: Store, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PRIVATE_LLM_CACHE", str(cache))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    store.at("model").put(tmp_path / "model")
    copied = model_folder(f"{uri}/model")
    assert (copied / "config.json").read_text() == "{}"
    assert copied.is_relative_to(cache)
    store.remove()
    assert model_folder(f"{uri}/model") == copied
    assert model_folder(str(tmp_path / "model")) == tmp_path / "model"
    with pytest.raises(ModelError, match=r"no model lies at memory://\S+/gone any more"):
        model_folder(f"{uri}/gone")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
