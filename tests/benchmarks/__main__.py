"""`make bench`: every stage and the whole day at several sizes, against floors and peers measured in the same run.

Figures are CPU seconds (user and system) and peak memory of the stage's own process; the servers are not counted. Machines
differ and are noisy: what carries over are the ratios. Writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from imunizacao.models import ExtractReceipt, LandingManifest, LandingSlice, ObjectRef, RunContext, to_json
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import storage_settings
from imunizacao.storage import ObjectStore, file_ref, open_work_store, sha256_of
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from imunizacao_local.seaweed import SeaweedPorts, SeaweedServer

ROOT = Path(__file__).resolve().parents[2]
DAY = ReferenceDay.parse("2026-03-14")
STAGES = ("flatten", "validate", "split", "acknowledge", "publish", "reconcile")
TO_FILES = ("flatten", "validate", "split")
TARGET_CPU_PER_MILLION = 60.0
TARGET_PEAK_MB = 1200.0


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--extract", type=int, default=100_000, help="documents of the extraction over HTTP, 0 = none")
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imunizacao-bench-") as scratch:
        folder = Path(scratch)
        with SeaweedServer(state_dir=folder / "s3", ports=SeaweedPorts.free()) as server:
            sizes = [_measure_size(count, server, folder, options.memory) for count in options.documents]
            extraction = _measure_extract(options.extract, server, folder, options.memory) if options.extract else None
    page = _page(sizes, extraction, memory=options.memory)
    options.write.write_text(page, encoding="utf-8")
    print(page)


def _python(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments[:2])} failed with exit code {done.returncode}; see the lines above.")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _state(server: SeaweedServer, folder: Path, memory: str, *, run_id: str, mirror: str) -> dict[str, Any]:
    keys = server.pipeline_credentials
    storage = {
        "endpoint_url": server.endpoint,
        "access_key": keys.access_key,
        "secret_key": keys.secret_key,
        "work_bucket": f"work-{run_id}",
        "public_bucket": f"public-{run_id}",
    }
    client = server.client(keys)
    for bucket in (storage["work_bucket"], storage["public_bucket"]):
        client.create_bucket(Bucket=bucket)
    return {
        "storage": storage,
        "mirror": mirror,
        "day": str(DAY),
        "run_id": run_id,
        "memory": memory,
        "scratch": str(folder),
        "receipts": {},
    }


def _measure_size(count: int, server: SeaweedServer, folder: Path, memory: str) -> dict[str, Any]:
    landing = folder / f"landing-{count}"
    print(f"… {count:,} documents: generating", file=sys.stderr)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.mirror",
            "generate",
            "--day",
            str(DAY),
            "--docs",
            str(count),
            "--seed",
            "7",
            "--out",
            str(landing),
            "--part",
            "50000",
            "--procs",
            "2",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    floors = {name: _python("tests.benchmarks.floors", name, str(landing)) for name in ("zstd", "sha256", "simdjson")}
    state = _state(server, folder, memory, run_id=f"bench-{count}", mirror="http://127.0.0.1:9/fhir/r4")
    work = open_work_store(storage_settings(**state["storage"]))
    state["receipts"]["extract"] = _land(work, landing, count, run_id=state["run_id"]).to_json()
    state_file = folder / f"state-{count}.json"
    state_file.write_text(json.dumps(state))
    _python("tests.benchmarks.stage", "resolve_day", str(state_file))
    stages = {}
    for stage in STAGES:
        stages[stage] = _python("tests.benchmarks.stage", stage, str(state_file))
        print(f"… {count:,} documents: {stage} {stages[stage]['cpu']:.1f} CPU s", file=sys.stderr)
    bare = _python("tests.benchmarks.upload", str(state_file))
    receipts = json.loads(state_file.read_text())["receipts"]
    published = json.loads(receipts["publish"])
    return {
        "count": count,
        "floors": floors,
        "stages": stages,
        "bare": bare,
        "rows": published["doses"]["published"],
        "files": published["files"],
        "bytes": published["bytes"],
        "content_id": published["content_id"],
    }


def _land(work: ObjectStore, landing: Path, count: int, *, run_id: str) -> ExtractReceipt:
    """Put generated parts where extract would have left them."""
    context = RunContext.create(day=DAY, run_id=run_id, code_version="benchmark-run")
    prefix = context.prefix("extract")
    parts = [
        file_ref(work, f"{prefix}{path.name}", path, rows=min(50_000, count - 50_000 * number))
        for number, path in enumerate(sorted(landing.glob("*.zst")))
    ]
    log = b"{}\n"
    work.put(prefix + "pages.ndjson", log)
    page_log = ObjectRef(key=prefix + "pages.ndjson", sha256=sha256_of(log), bytes=len(log))
    piece = LandingSlice(
        start=DAY.start.isoformat(),
        end=DAY.end.isoformat(),
        announced=count,
        distinct=count,
        lines=count,
        rejected=0,
        parts=parts,
        page_log=page_log,
        rejects=None,
        pages=0,
        attempts=1,
        run_id=run_id,
    )
    body = to_json(LandingManifest(day=str(DAY), slices=[piece])).encode()
    work.put(prefix + "manifest.json", body)
    landed = sha256("".join(sorted(part.sha256 for part in parts)).encode()).hexdigest()
    return ExtractReceipt(
        stage="extract",
        day=str(DAY),
        run_id=run_id,
        code_version="benchmark-run",
        fingerprint=landed,
        manifest=ObjectRef(key=prefix + "manifest.json", sha256=sha256_of(body), bytes=len(body)),
        announced=count,
        fetched=count,
        rejected=0,
        slices=1,
        slices_reused=0,
        pages=0,
        requests=0,
        retries=0,
        bytes_received=0,
        extracted_at="2026-03-15T06:00:00+00:00",
        landing_sha256=landed,
    )


def _measure_extract(count: int, server: SeaweedServer, folder: Path, memory: str) -> dict[str, Any]:
    print(f"… extracting {count:,} documents over HTTP", file=sys.stderr)
    settings = MirrorSettings(seed=7, docs_per_day=count, auth="none")
    with MirrorServer(state_dir=folder / "mirror", root=ROOT, port=free_ports(1)[0], settings=settings) as mirror:
        state = _state(server, folder, memory, run_id="bench-extract", mirror=mirror.base_url)
        state_file = folder / "state-extract.json"
        state_file.write_text(json.dumps(state))
        bounds = (DAY.start.isoformat(), DAY.end.isoformat())
        peer = _python("tests.benchmarks.download", mirror.base_url, *bounds, "500", "4")
        ours = _python("tests.benchmarks.stage", "extract", str(state_file))
    return {"count": count, "peer": peer, "ours": ours}


def _page(sizes: list[dict[str, Any]], extraction: dict[str, Any] | None, *, memory: str) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; do not edit by hand. CPU seconds are user + system of the stage's own process, imports included; "
        "the S3 server and the mirror are not counted. The ratios are what carries over to another machine.",
        "",
        f"Machine: {_machine()}. DuckDB limit: {memory}, 2 threads. {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "Documents come from the simulator (mean 3.8 kB, five profile generations, 5 % out of the canonical shape, every trap of "
        "its README). The parse floor is simdjson's DOM over the same zstd lines, with nothing read from it.",
        "",
    ]
    for size in sizes:
        floor = size["floors"]["simdjson"]["cpu"]
        lines += [
            f"## {size['count']:,} documents → {size['rows']:,} rows, {size['files']:,} files, {size['bytes'] / 1e6:,.0f} MB",
            "",
            "| step | CPU s | wall s | peak MB | documents per CPU s | × parse floor |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name, label in (
            ("zstd", "floor: unpack zstd"),
            ("sha256", "floor: unpack and sha256"),
            ("simdjson", "floor: parse (simdjson)"),
        ):
            lines.append(_row(label, size["floors"][name], size["count"], floor))
        lines.append(_row("peer: bare upload of the same CSVs", size["bare"], size["count"], floor))
        for stage in STAGES:
            lines.append(_row(f"`{stage}`", size["stages"][stage], size["count"], floor))
        lines.append(_row("**landing → validated files with hashes**", _sum(size, TO_FILES), size["count"], floor))
        lines.append(_row("landing → published and counted again", _sum(size, STAGES), size["count"], floor))
        lines += ["", f"Content id `{size['content_id']}`.", ""]
    biggest = max(sizes, key=lambda size: int(size["count"]))
    total = _sum(biggest, TO_FILES)
    per_million = total["cpu"] * 1e6 / biggest["count"]
    lines += [
        "## Against the targets",
        "",
        "| target | measured | held |",
        "| --- | ---: | --- |",
        f"| landing → validated files: ≤ {TARGET_CPU_PER_MILLION:.0f} CPU s per 1M documents | {per_million:.1f} | {_held(per_million <= TARGET_CPU_PER_MILLION)} |",
        f"| peak memory ≤ {TARGET_PEAK_MB:.0f} MB | {total['peak_mb']:.0f} | {_held(total['peak_mb'] <= TARGET_PEAK_MB)} |",
    ]
    share = biggest["stages"]["validate"]["cpu"] / total["cpu"]
    lines.append(
        f"| validation with Data Docs and quarantine ≤ 30 % of that CPU time | {share:.0%} | {_held(share <= 0.30)} |"
    )
    judged = biggest["stages"]["validate"]["peak_mb"]
    lines.append(f"| validation ≤ 1,000 MB | {judged:.0f} | {_held(judged <= 1000)} |")
    speed = biggest["bare"]["wall"] / biggest["stages"]["publish"]["wall"]
    lines.append(
        f"| publish ≥ 60 % of the speed of a bare concurrent uploader ({biggest['bare']['files']:,} files) | {speed:.0%} | "
        f"{_held(speed >= 0.60)} |"
    )
    if extraction is not None:
        ratio = extraction["ours"]["wall"] / extraction["peer"]["wall"]
        lines += [
            f"| extract ≤ 250 MB at {extraction['count']:,} documents | {extraction['ours']['peak_mb']:.0f} | {_held(extraction['ours']['peak_mb'] <= 250)} |",
            f"| extract ≤ 2 × the time of a bare download of the same pages | {ratio:.2f} | {_held(ratio <= 2)} |",
            "",
            f"## Extraction over loopback HTTP, {extraction['count']:,} documents, 500 a page, 4 connections",
            "",
            "| step | CPU s | wall s | peak MB |",
            "| --- | ---: | ---: | ---: |",
            f"| bare download, nothing kept | {extraction['peer']['cpu']:.1f} | {extraction['peer']['wall']:.1f} | {extraction['peer']['peak_mb']:.0f} |",
            f"| `extract`: checked, landed, counted before and after | {extraction['ours']['cpu']:.1f} | {extraction['ours']['wall']:.1f} | {extraction['ours']['peak_mb']:.0f} |",
        ]
    return "\n".join(lines) + "\n"


def _sum(size: dict[str, Any], stages: tuple[str, ...]) -> dict[str, float]:
    figures = [size["stages"][stage] for stage in stages]
    return {
        "cpu": sum(figure["cpu"] for figure in figures),
        "wall": sum(figure["wall"] for figure in figures),
        "peak_mb": max(figure["peak_mb"] for figure in figures),
    }


def _row(label: str, figure: dict[str, Any], count: int, floor: float) -> str:
    return (
        f"| {label} | {figure['cpu']:.1f} | {figure['wall']:.1f} | {figure['peak_mb']:.0f} | "
        f"{count / figure['cpu']:,.0f} | {figure['cpu'] / floor:.1f} |"
    )


def _held(held: bool) -> str:
    return "yes" if held else "**no**"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
