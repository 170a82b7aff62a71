import io
import json
import logging
from datetime import datetime
from typing import Any

import pytest

from agentkeys_runtime import logs
from tests.unit.runtime.conftest import Lines

LOG = logging.getLogger("agentkeys.test")


def test_one_line_names_service_event_and_fields(lines: Lines) -> None:
    logs.log_event(LOG, "request", role="worker", duration_ms=1.5, ok=True, reason=None, count=2)
    (line,) = lines()
    assert datetime.fromisoformat(line.pop("ts")).tzinfo is not None
    assert line == {
        "level": "info",
        "service": "signer",
        "logger": "agentkeys.test",
        "event": "request",
        "role": "worker",
        "duration_ms": 1.5,
        "ok": True,
        "reason": None,
        "count": 2,
    }


def test_payloads_and_secrets_never_pass(lines: Lines) -> None:
    careless: dict[str, Any] = {"body": b"hunter2", "table": {"k": "hunter2"}, "long": "a" * 5000}
    logs.log_event(LOG, "request", **careless)
    (line,) = lines()
    assert (line["body"], line["table"]) == ("<bytes>", "<dict>")
    assert len(line["long"]) == logs.TEXT_LIMIT + 1


def test_exceptions_are_named_without_their_message(lines: Lines) -> None:
    try:
        raise ValueError("hunter2")
    except ValueError:
        LOG.exception("failed")
    (line,) = lines()
    assert (line["event"], line["exception"], line["level"]) == ("failed", "ValueError", "error")
    assert line["at"].startswith("test_logs.py:")
    assert "hunter2" not in json.dumps(line)


def test_text_cannot_forge_a_second_line(lines: Lines) -> None:
    logs.log_event(LOG, "request", name='x"}\n{"event":"forged"', other="\u2028\x1b[31m")
    (line,) = lines()
    assert line["name"] == 'x"}\n{"event":"forged"'


def test_fields_cannot_replace_the_lines_own(lines: Lines) -> None:
    logs.log_event(LOG, "request", service="other", ts="never")
    (line,) = lines()
    assert line["service"] == "signer"
    assert line["ts"] != "never"


def test_numbers_that_are_no_json_are_texts(lines: Lines) -> None:
    logs.log_event(LOG, "request", value=float("nan"))
    assert lines()[0]["value"] == "nan"


def test_foreign_loggers_get_the_same_form(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").info("started on %s", "here")
    assert [line["event"] for line in lines()] == ["started on here"]


def test_a_message_that_does_not_fit_its_arguments_is_still_a_line() -> None:
    record = logging.LogRecord("odd", logging.INFO, "x.py", 1, "two %s", (1, 2), None)
    assert json.loads(logs.JsonLines("signer").format(record))["event"] == "two %s"


@pytest.mark.usefixtures("lines")
def test_configuring_again_does_not_double_lines() -> None:
    stream = io.StringIO()
    for _ in range(2):
        logs.configure("signer", stream=stream)
    logs.log_event(LOG, "once")
    assert len(stream.getvalue().splitlines()) == 1


def test_request_ids_differ() -> None:
    ids = {logs.request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 16 for each in ids)
