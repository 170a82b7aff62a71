"""Structured logs: one JSON object a line on stderr, made of plain values only, never of payloads."""

import json
import logging
import math
import secrets
import sys
import traceback
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Final, TextIO

TEXT_LIMIT: Final = 300  # characters; a detail is a phrase, and nothing longer is a log line's business
Field = str | int | float | bool | None
_FIELDS: Final = "agentkeys_fields"


def request_id() -> str:
    """Return 16 random hex digits that name one request in logs and answers."""
    return secrets.token_hex(8)


def log_event(logger: logging.Logger, event: str, *, level: int = logging.INFO, **fields: Field) -> None:
    """Write one line named `event` with these fields. Values other than texts and numbers are left out by type."""
    logger.log(level, event, extra={_FIELDS: fields})


def configure(service: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (stderr) as JSON lines that name `service`; repeatable."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)


class JsonLines(logging.Formatter):
    """Formats a record as one line of ASCII JSON: ts, level, service, logger, event, then the event's own fields.

    An exception is named by type and place. Its message is left out: it may quote the data that caused it.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Field] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": _plain(_message(record)),
        }
        fields = getattr(record, _FIELDS, {})
        line |= {name: _plain(value) for name, value in fields.items() if name not in line}
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a foreign logger's arguments do not fit its text
        return str(record.msg)


def _plain(value: object) -> Field:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= TEXT_LIMIT else value[:TEXT_LIMIT] + "…"
    return f"<{type(value).__name__}>"


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f"{PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
