"""Pages of the web as servers send them, good and bad, and a server with a certificate."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.server import Whole


def page(body: str, title: str = "", *, content_type: str = "text/html; charset=utf-8", **headers: str) -> Whole:
    """An HTML page."""
    text = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"
    return raw(text.encode(), content_type, **headers)


def raw(data: bytes, content_type: str = "text/plain; charset=utf-8", **headers: str) -> Whole:
    """Anything."""
    return Whole(raw=data, headers={"Content-Type": content_type, **headers})


def redirect(target: str, status: int = 302) -> Whole:
    """A redirect."""
    return Whole(raw=b"", status=status, headers={"Location": target})


def bomb(megabytes: int) -> Whole:
    """A text of the letter `a` that is a thousand times smaller on its way."""
    return raw(gzip.compress(b"a" * (megabytes * 1_000_000)), **{"Content-Encoding": "gzip"})


def certificate(folder: Path, name: str) -> Path:
    """A file with a new key and a certificate for `name`, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none) + signed.public_bytes(pem),
    )
    return file


@asynccontextmanager
async def secure(certificate: Path) -> AsyncIterator[int]:
    """A server that says `secure` over TLS; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nsecure")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
