"""Minimal PDF files, written by hand: a catalogue, a page tree, and pages with a line of text each."""

from __future__ import annotations

import io

from pypdf import PdfReader, PdfWriter


def make_pdf(*pages: str, title: str = "", author: str = "") -> bytes:
    """Return a valid PDF whose pages hold these texts (ASCII, without parentheses)."""
    first = 5
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    bodies = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) /Author ({author}) /Producer (a test) >>",
    ]
    for number, text in enumerate(pages):
        contents = first + 2 * number + 1
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {contents} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        bodies.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    return _assembled(bodies)


def encrypted(pdf: bytes, password: str) -> bytes:
    """Return *pdf*, encrypted."""
    writer = PdfWriter(PdfReader(io.BytesIO(pdf)))
    writer.encrypt(password, algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def _assembled(bodies: list[str]) -> bytes:
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    out += f"trailer\n<< /Size {len(bodies) + 1} /Root 1 0 R /Info 4 0 R >>\n".encode()
    out += f"startxref\n{start}\n%%EOF\n".encode()
    return bytes(out)
