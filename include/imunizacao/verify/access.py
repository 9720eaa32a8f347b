"""From an address to a reader: http(s), a folder, or S3 with keys that may read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imunizacao.errors import ConfigurationError
from imunizacao.verify.readers import FolderReader, HttpReader, Reader

_FORMS = "http(s)://host[:port]/bucket[/prefix], s3://bucket[/prefix], or file:///folder with a copy"
_S3 = ("IMUNIZACAO_S3_ENDPOINT", "IMUNIZACAO_S3_ACCESS_KEY", "IMUNIZACAO_S3_SECRET_KEY")


def open_reader(address: str, env: Mapping[str, str]) -> Reader:
    """A reader for an address; `ConfigurationError` when it has another form or a setting is missing.

    `s3://` takes endpoint, keys and region from the environment; keys of an identity that may only read are enough. A query in an
    http address (an access token of a gateway) goes with every GET.
    """
    parts = urlsplit(address)
    if parts.scheme == "s3" and parts.netloc:
        missing = [name for name in _S3 if not env.get(name)]
        if missing:
            raise ConfigurationError(
                f"s3:// needs {', '.join(missing)} in the environment: endpoint and keys of an identity that may read. "
                "An open bucket can be verified by its http address."
            )
        endpoint, access_key, secret_key = (env[name] for name in _S3)
        sign = signer(access_key, secret_key, region=env.get("IMUNIZACAO_S3_REGION") or "us-east-1")
        bucket = f"{parts.netloc}{_root(parts.path)}"
        return HttpReader(f"{endpoint.rstrip('/')}/{bucket}", sign=sign, shown=f"s3://{bucket}")
    if parts.scheme in {"http", "https"} and parts.hostname:
        return HttpReader(parts._replace(path=_root(parts.path), fragment="").geturl())
    if parts.scheme in {"file", ""} and not parts.netloc and parts.path:
        folder = Path(unquote(_root(parts.path)) if parts.scheme else _root(address))
        if folder.is_dir():
            return FolderReader(folder.resolve())
        raise ConfigurationError(f"{folder} is not a folder. Expected {_FORMS}.")
    raise ConfigurationError(f"{address!r} is no address of a bucket. Expected {_FORMS}.")


def _root(path: str) -> str:
    """People copy the address of the catalog, or of its folder."""
    return path.rstrip("/").removesuffix("/catalog.json").removesuffix("/v1")


def signer(
    access_key: str, secret_key: str, *, region: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Callable[[str, str], Mapping[str, str]]:
    """Headers of a GET by AWS Signature Version 4, for a host and a path whose segments are percent-encoded."""

    def sign(host: str, path: str) -> Mapping[str, str]:
        instant = f"{now():%Y%m%dT%H%M%SZ}"
        scope = f"{instant[:8]}/{region}/s3/aws4_request"
        headers = {"host": host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": instant}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"GET\n{path}\n\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        key = f"AWS4{secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        to_sign = f"AWS4-HMAC-SHA256\n{instant}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return {**headers, "Authorization": authorization}

    return sign
