"""One content folder: day.json, its 27 descriptors and every file that they name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from imunizacao.verify import forms
from imunizacao.verify.files import FileNamed, UfFiles, UfSeen, check_municipality, check_residents, check_uf
from imunizacao.verify.forms import Json, Malformed
from imunizacao.verify.found import Findings
from imunizacao.verify.layout import DOCUMENT, UFS, is_inside
from imunizacao.verify.readers import Missing, Reader, TooLarge, read_small
from imunizacao.verify.schema import Schema, read_schema, removals_schema
from imunizacao.verify.sums import Keys, RowSum
from imunizacao.verify.tables import Order, Table

SMALL: Final = 64 << 20
"""No manifest is larger than this; one that says so is not read."""
_DIALECT: Final = {"header": True, "delimiter": ";", "lineTerminator": "\n", "quoteChar": '"', "doubleQuote": True}
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What is needed of a day.json."""

    key: str
    day: str
    rows: int
    municipalities: int
    ufs: dict[str, RootUf]
    known: int | None
    """Doses with a residence; None in a day of the time before there were files of residents."""
    completeness: dict[str, int]
    removed: Json
    outcome: Json

    @property
    def folder(self) -> str:
        """With its final slash."""
        return self.key.rpartition("/")[0] + "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootUf:
    """A UF as day.json names it."""

    path: str
    sha256: str
    bytes: int
    rows: int
    municipalities: int
    residents: int


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was read of a content."""

    rows: int = 0
    files: int = 0
    bytes: int = 0
    ufs: list[str] = field(default_factory=list)
    schema: Schema | None = None
    wholes: dict[str, FileNamed] = field(default_factory=dict)
    """File of each UF whose descriptor was read."""
    notes: list[str] = field(default_factory=list)


def fetch(reader: Reader, key: str, named: Json, findings: Findings, *, hashed: str = "sha256") -> bytes | None:
    """A small object that a manifest names by size and hash; None when it cannot be read. Differences are findings."""
    try:
        body = read_small(reader, key, most=SMALL)
    except Missing as error:
        findings.add("missing", key, "a manifest names it", expected="an object", found=error.why)
        return None
    except TooLarge:
        findings.add("bytes", key, "larger than any manifest", expected=named.get("bytes"), found=f"more than {SMALL}")
        return None
    findings.expect("bytes", key, "size", expected=named.get("bytes"), found=len(body))
    found = hashlib.sha256(body).hexdigest()
    findings.expect("sha256", key, "hash", expected=str(named.get(hashed, "")).removeprefix("sha256:"), found=found)
    return body


def fetch_json(reader: Reader, key: str, named: Json, findings: Findings) -> Json | None:
    """The same, as a JSON object."""
    body = fetch(reader, key, named, findings)
    if body is None:
        return None
    try:
        return forms.parse(body)
    except Malformed as error:
        findings.add("form", key, error.member, expected=error.expected)
        return None


def read_root(reader: Reader, key: str, named: Json, day: str, findings: Findings) -> Root | None:
    """day.json by the size and hash that the head says, with its sums checked; None when it cannot be followed."""
    document = fetch_json(reader, key, named, findings)
    if document is None:
        return None
    try:
        root = _root(document, key, day, findings)
    except Malformed as error:
        findings.add("form", key, error.member, expected=error.expected)
        return None
    ufs = root.ufs.values()
    findings.expect("sums", key, "rows of the UFs", expected=root.rows, found=sum(uf.rows for uf in ufs))
    findings.expect(
        "sums",
        key,
        "municipalities of the UFs",
        expected=root.municipalities,
        found=sum(uf.municipalities for uf in ufs),
    )
    findings.expect(
        "residents", key, "residents of the UFs", expected=root.known or 0, found=sum(uf.residents for uf in ufs)
    )
    return root


def _root(document: Json, key: str, day: str, findings: Findings) -> Root:
    for name, expected in (
        ("schema", "imunizacao.day/1"),
        ("day", day),
        ("timezone", "America/Sao_Paulo"),
        ("partitionBy", "establishment"),
    ):
        findings.expect("form", key, name, expected=expected, found=document.get(name))
    files = forms.child(document, "files")
    nodes = forms.children(files, "ufs")
    named = [(node.get("uf"), node.get("sg_uf")) for node in nodes]
    if named != list(UFS.items()):
        raise Malformed("files.ufs", "the 27 UFs in the order of their codes")
    ufs = {}
    for node in nodes:
        code = node["uf"]
        path = forms.text(node, "path")
        if not is_inside(path) or path != f"uf={code}/datapackage.json":
            findings.add("path", key, f"descriptor of UF {code}", expected=f"uf={code}/datapackage.json", found=path)
            continue
        ufs[code] = RootUf(
            path=path,
            sha256=forms.sha256(node, "sha256"),
            bytes=forms.count(node, "bytes"),
            rows=forms.count(node, "rows"),
            municipalities=forms.count(node, "municipalities"),
            residents=forms.count(node, "residents") if "residents" in node else 0,
        )
    rows = forms.count(document, "rows")
    known = None
    if "residence" in document:
        residence = forms.child(document, "residence")
        known, unknown = forms.count(residence, "known"), forms.count(residence, "unknown")
        findings.expect("residents", key, "doses with and without residence", expected=rows, found=known + unknown)
    named_files = {}
    for name, path in (("removed", "removed.csv"), ("outcome", "outcome.json")):
        node = named_files[name] = forms.child(files, name)
        findings.expect("path", key, name, expected=path, found=node.get("path"))
    return Root(
        key=key,
        day=day,
        rows=rows,
        municipalities=forms.count(document, "municipalities"),
        ufs=ufs,
        known=known,
        completeness=forms.counts(document, "completeness"),
        removed=named_files["removed"],
        outcome=named_files["outcome"],
    )


@dataclass(kw_only=True)
class ContentCheck:
    """Reads a whole content, or some of its UFs. Tasks of the pool share nothing but the findings."""

    reader: Reader
    root: Root
    content_id: str
    findings: Findings
    pool: Executor
    wanted: frozenset[str]
    """UFs to read; empty means all."""
    withdrawn: frozenset[str]
    """UFs that nobody may read."""
    purged: frozenset[str]
    """Those of them whose files may be gone."""
    schemas: dict[str, Schema]
    """By sha256: the same for all UFs of most days."""
    seen: Seen = field(default_factory=Seen)

    def run(self) -> Seen:
        """Check everything below day.json."""
        seen, root = self.seen, self.root
        read = [code for code in root.ufs if code not in self.withdrawn and (not self.wanted or code in self.wanted)]
        seen.ufs = read
        whole = not self.wanted
        described = read if not whole else list(root.ufs)
        packages = {files.uf: files for files in self._each(self._describe, described) if files is not None}
        seen.wholes = {code: files.whole for code, files in packages.items()}
        readable = [packages[code] for code in read if code in packages]
        by_size = sorted(readable, key=lambda files: -files.whole.bytes)
        # `read` holds a UF that may not be described: then nothing can be said of its rows.
        complete = whole and not self.withdrawn and len(readable) == len(UFS)
        counted = {one.uf: one for one in self._each(self._count, by_size)}
        self._check_municipalities(readable, counted)
        residence: dict[str, RowSum] = {}
        unknown, keys = 0, Keys()
        for one in counted.values():
            unknown += one.without_residence
            keys.take(one.keys)
            for code, rows in one.residence.items():
                residence.setdefault(code, RowSum()).take(rows)
        self._check_residents(readable, residence, unknown, complete=complete, read=frozenset(counted))
        seen.rows = sum(one.rows for one in counted.values())
        if complete:
            self._check_sums(counted, keys)
        outcome = self._outcome()
        removed = self._removed()
        if whole:
            self._check_content_id(packages, removed)
        if outcome is not None:
            seen.files += 1
        return seen

    # --- descriptors ------------------------------------------------------------------------------

    def _describe(self, code: str) -> UfFiles | None:
        uf, folder = self.root.ufs[code], self.root.folder
        key = folder + uf.path
        quiet = Findings() if code in self.purged else self.findings
        document = fetch_json(self.reader, key, {"sha256": uf.sha256, "bytes": uf.bytes}, quiet)
        if document is None:
            return None
        try:
            files = UfFiles.read(document, uf=code, key=key, day=self.root.day, findings=self.findings)
            if files is None or code in self.withdrawn:
                return files
            parts = self._parts(files, key)
        except Malformed as error:
            self.findings.add("form", key, error.member, expected=error.expected)
            return None
        if parts is None:
            return None
        files.schema = parts
        findings = self.findings
        findings.expect(
            "sums", key, "municipalities named", expected=uf.municipalities, found=len(files.municipalities)
        )
        findings.expect("sums", key, "rows named", expected=uf.rows, found=files.whole.rows)
        findings.expect(
            "municipalities",
            key,
            "rows of the municipalities",
            expected=files.whole.rows,
            found=sum(part.rows for part in files.municipalities.values()),
        )
        said = files.residents.rows if files.residents is not None else 0
        findings.expect("residents", key, "residents named", expected=uf.residents, found=said)
        return files

    def _parts(self, files: UfFiles, key: str) -> Schema | None:
        """Schema and dialect of a UF; the same bytes are read into a schema once."""
        schema: Schema | None = None
        for name in ("tableschema.json", "dialect.json"):
            named = files.parts.get(name)
            if named is None:
                self.findings.add("form", key, "rnds:parts", expected=name, found="not named")
                continue
            where = files.folder + name
            known = self.schemas.get(named["hash"])
            body = fetch(self.reader, where, named, self.findings, hashed="hash")
            if body is None:
                continue
            if name == "tableschema.json":
                # A schema with another hash than named is a finding already; its rows are judged by what is there.
                mark = f"sha256:{hashlib.sha256(body).hexdigest()}"
                schema = (
                    known if known is not None and mark == named["hash"] else self._read_part(where, body, read_schema)
                )
                if schema is not None:
                    self.schemas[mark] = schema
                    self.seen.schema = schema
            else:
                document = self._read_part(where, body, lambda node: node)
                said = {name: document.get(name) for name in _DIALECT} if document is not None else _DIALECT
                self.findings.expect("dialect", where, "dialect", expected=_DIALECT, found=said)
        return schema

    def _read_part(self, where: str, body: bytes, read: Callable[[Json], T]) -> T | None:
        try:
            return read(forms.parse(body))
        except Malformed as error:
            self.findings.add("form", where, error.member, expected=error.expected)
            return None

    # --- files ------------------------------------------------------------------------------------

    def _count(self, files: UfFiles) -> UfSeen:
        return check_uf(self.reader, files, self.root.day, self.findings)

    def _check_municipalities(self, readable: Sequence[UfFiles], counted: dict[str, UfSeen]) -> None:
        tasks = []
        for files in readable:
            places = counted[files.uf].places
            absent = sorted(set(places) - set(files.municipalities))
            if absent:
                self.findings.add(
                    "municipalities",
                    files.key,
                    "municipalities of the rows without a file",
                    expected=0,
                    found=len(absent),
                )
            tasks += [(files, code, places.get(code)) for code in files.municipalities]
        for _ in self._each(lambda task: check_municipality(self.reader, *task, findings=self.findings), tasks):
            pass
        self.seen.files += len(tasks) + len(readable)
        self.seen.bytes += sum(
            files.whole.bytes + sum(part.bytes for part in files.municipalities.values()) for files in readable
        )

    def _check_residents(
        self,
        readable: Sequence[UfFiles],
        residence: dict[str, RowSum],
        unknown: int,
        *,
        complete: bool,
        read: frozenset[str],
    ) -> None:
        root, findings = self.root, self.findings
        with_files = [files for files in readable if files.residents is not None]
        wanted = len(readable) if root.known else 0
        findings.expect("residents", root.key, "UFs with a file of residents", expected=wanted, found=len(with_files))
        if complete and root.known is not None:
            known = sum(rows.rows for rows in residence.values())
            findings.expect("residents", root.key, "doses with a residence", expected=root.known, found=known)
            findings.expect(
                "residents", root.key, "doses without a residence", expected=root.rows - root.known, found=unknown
            )
        strangers = sorted(set(residence) - set(UFS))
        findings.expect("residents", root.key, "residences in UFs that are none", expected=0, found=len(strangers))

        def check(files: UfFiles) -> None:
            given = residence.get(files.uf, RowSum())
            check_residents(self.reader, files, given, read=read, findings=findings)

        for _ in self._each(
            check, sorted(with_files, key=lambda files: -(files.residents.bytes if files.residents else 0))
        ):
            pass
        self.seen.files += len(with_files)
        self.seen.bytes += sum(files.residents.bytes for files in with_files if files.residents is not None)

    def _check_sums(self, counted: dict[str, UfSeen], keys: Keys) -> None:
        root, findings = self.root, self.findings
        findings.expect("sums", root.key, "rows of the day", expected=root.rows, found=self.seen.rows)
        repeated = keys.repeated()
        findings.expect(
            "duplicate-key", root.folder, f"{DOCUMENT} that stand twice in the day", expected=0, found=repeated
        )
        filled: Counter[str] = Counter()
        for one in counted.values():
            filled.update(one.filled)
        wrong = [name for name, number in filled.items() if root.completeness.get(name) != number]
        if wrong:
            findings.add(
                "sums",
                root.key,
                f"completeness of {len(wrong)} columns, {wrong[0]} among them",
                expected=root.completeness.get(wrong[0], "a count"),
                found=filled[wrong[0]],
            )

    def _removed(self) -> str | None:
        """Check removed.csv; its hash."""
        key, named = self.root.folder + "removed.csv", self.root.removed
        table = Table(key, removals_schema())
        order = Order(table.notes, DOCUMENT)
        try:
            for batch in table.batches(self.reader.stream(key), self.findings):
                order.check([(document,) for document in batch.columns[0]], batch.first)
        except Missing as error:
            self.findings.add("missing", key, "day.json names it", expected="an object", found=error.why)
            return None
        for kind, name, found in (
            ("bytes", "bytes", table.bytes),
            ("sha256", "sha256", table.sha256),
            ("rows", "rows", table.rows),
        ):
            self.findings.expect(kind, key, name, expected=named.get(name), found=found)
        self.seen.files += 1
        self.seen.bytes += table.bytes
        return table.sha256

    def _outcome(self) -> Json | None:
        key = self.root.folder + "outcome.json"
        document = fetch_json(self.reader, key, self.root.outcome, self.findings)
        if document is None:
            return None
        try:
            self.findings.expect("form", key, "schema", expected="imunizacao.outcome/1", found=document.get("schema"))
            self.findings.expect("form", key, "day", expected=self.root.day, found=document.get("day"))
            account = forms.counts(document, "account")
            check_account(account, key, self.findings)
            self.findings.expect("account", key, "published", expected=self.root.rows, found=account["published"])
        except Malformed as error:
            self.findings.add("form", key, error.member, expected=error.expected)
        return document

    def _check_content_id(self, packages: dict[str, UfFiles], removed: str | None) -> None:
        if removed is None or len(packages) != len(UFS):
            self.seen.notes.append("content id not computed: not all descriptors could be read")
            return
        hashes = [("removed.csv", removed)]
        for files in packages.values():
            hashes += [(f"uf={files.uf}/{file.path}", file.sha256) for file in files.all()]
        text = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(hashes))
        found = hashlib.sha256(text.encode()).hexdigest()
        self.findings.expect("content-id", self.root.key, "id of the files", expected=self.content_id, found=found)

    def _each(self, work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        return self.pool.map(work, items)


def check_account(account: dict[str, int], where: str, findings: Findings) -> None:
    """doses = published + quarantined + superseded + removed."""
    missing = {"doses", "published", "quarantined", "superseded", "removed"} - set(account)
    if missing:
        raise Malformed("account", ", ".join(sorted(missing)))
    fates = account["published"] + account["quarantined"] + account["superseded"] + account["removed"]
    findings.expect(
        "account", where, "published + quarantined + superseded + removed", expected=account["doses"], found=fates
    )
