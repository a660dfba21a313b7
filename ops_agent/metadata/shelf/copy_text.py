r"""Rows of an archive as the text that `COPY … FROM STDIN` reads.

PostgreSQL, "COPY", text format: fields end with a tab, rows with a newline, \N is NULL, and a backslash escapes. It is
made column by column in Arrow, a hundred times as fast as row by row in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops_agent.metadata.shelf import times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops_agent.metadata.shelf.manifest import Column

_ESCAPES = (("\\", r"\\"), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"))


def chunks(rows: Any, columns: Sequence[Column], *, chunk_bytes: int = 4 << 20) -> Iterator[bytes]:
    """Give the text of a pyarrow.Table's rows, so many at a time that they are about `chunk_bytes`."""
    import pyarrow as pa  # noqa: PLC0415 - hosts without an archive engine have none
    from pyarrow import compute  # noqa: PLC0415

    size = max(1, chunk_bytes * rows.num_rows // max(1, rows.nbytes))
    for start in range(0, rows.num_rows, size):
        part = rows.slice(start, size)
        fields = [_field(part.column(column.name), column) for column in columns]
        tab, newline, nothing = (pa.scalar(text, pa.large_string()) for text in ("\t", "\n", ""))
        lines = compute.binary_join_element_wise(*fields, tab, null_handling="replace", null_replacement=r"\N")
        ended = compute.binary_join_element_wise(lines, newline, nothing)
        yield b"".join(_content(chunk) for chunk in (ended.chunks if isinstance(ended, pa.ChunkedArray) else [ended]))


def texts(values: Any, column: Column) -> Any:
    """Return a column as PostgreSQL's text of its values, not escaped; NULL stays null."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import compute  # noqa: PLC0415

    if column.encoding == "hex":
        return pa.array(
            [None if each is None else rf"\x{each.hex()}" for each in values.to_pylist()], pa.large_string()
        )
    if times.unusual(values):
        return pa.array(times.texts(values), pa.large_string())
    if pa.types.is_timestamp(values.type) and values.type.tz:
        # Arrow looks its zone up for each value, and all of them are in UTC.
        plain = values.cast(pa.timestamp(values.type.unit)).cast(pa.large_string())
        zone, nothing = (pa.scalar(text, pa.large_string()) for text in ("Z", ""))
        return compute.binary_join_element_wise(plain, zone, nothing)
    return values.cast(pa.large_string())


def _field(values: Any, column: Column) -> Any:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import compute  # noqa: PLC0415

    text = texts(values, column)
    if column.encoding == "hex" or pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        # A look at all of the column's bytes at once is a hundred times as fast as one at each value.
        content = [_content(chunk) for chunk in (text.chunks if isinstance(text, pa.ChunkedArray) else [text])]
        for plain, escaped in _ESCAPES:
            if any(plain.encode() in each for each in content):
                text = compute.replace_substring(text, plain, escaped)
    return text


def _content(lines: Any) -> bytes:
    # The values of a string array lie one after the other in its third buffer; the second says where each begins.
    if not len(lines):
        return b""
    _, offsets, data = lines.buffers()
    if data is None:
        return b""
    ends = memoryview(offsets).cast("q")
    return bytes(memoryview(data)[ends[lines.offset] : ends[lines.offset + len(lines)]])
