"""A validator of bags, written from RFC 8493 and nothing else: complete (section 3) and valid (every checksum holds)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_LINE = re.compile(r"(?P<sum>[0-9A-Fa-f]{64})[ \t]+(?P<path>\S.*)")


def validate_bag(folder: Path) -> dict[str, list[str]]:
    """Check a bag and return what its bag-info.txt says, by label."""
    declaration = (folder / "bagit.txt").read_bytes().decode("utf-8")
    assert re.fullmatch(r"BagIt-Version: 1\.0\r?\n?Tag-File-Character-Encoding: UTF-8\r?\n?", declaration), (
        "2.1.1: exactly two lines, in this order"
    )
    assert (folder / "data").is_dir(), "2.1.2: the payload directory"
    payload = _manifest(folder / "manifest-sha256.txt")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert all(path.startswith("data/") for path in payload), "2.1.3: a payload manifest names payload files only"
    assert set(payload) == {path for path in files if path.startswith("data/")}, (
        "3: every payload file is in the manifest"
    )
    tags = _manifest(folder / "tagmanifest-sha256.txt")
    assert not [path for path in tags if path.startswith(("data/", "tagmanifest-"))], "2.2.1"
    assert set(tags) == {path for path in files if not path.startswith(("data/", "tagmanifest-"))}
    for path, checksum in (payload | tags).items():
        body = (folder / path).read_bytes()
        assert hashlib.sha256(body).hexdigest() == checksum.lower(), f"3: {path} has another checksum"
    info = _info((folder / "bag-info.txt").read_text(encoding="utf-8"))
    [oxum] = info["Payload-Oxum"]
    size = sum((folder / path).stat().st_size for path in payload)
    assert oxum == f"{size}.{len(payload)}", "2.2.2: octets and streams of the payload"
    [date] = info["Bagging-Date"]
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", date)
    return info


def _manifest(file: Path) -> dict[str, str]:
    named: dict[str, str] = {}
    for line in file.read_bytes().decode("utf-8").splitlines():
        found = _LINE.fullmatch(line)
        assert found, f"2.1.3: {file.name}: {line!r}"
        path = found["path"].removeprefix("./")
        assert not path.startswith(("/", "~")), "5.1.2: a path leads nowhere else"
        assert ".." not in path.split("/"), "5.1.2: a path leads nowhere else"
        assert "%" not in path, "only line breaks and % are escaped, and no path here has any"
        assert path not in named, f"2.1.3: {path} is named twice"
        named[path] = found["sum"]
    assert named, f"{file.name} is empty"
    return named


def _info(text: str) -> dict[str, list[str]]:
    info: dict[str, list[str]] = {}
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        assert colon, f"2.2.2: {line!r}"
        assert label == label.strip(), f"2.2.2: {line!r}"
        assert value[:1] in {" ", "\t"}, f"2.2.2: {line!r}"
        info.setdefault(label, []).append(value.strip())
    return info
