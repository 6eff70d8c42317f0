"""Structured logs: one JSON object per line, without the texts of requests."""

from __future__ import annotations

import json
import logging
import sys
import time

from ..errors import AdapterkitError, DataError

log = logging.getLogger("adapterkit")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; `extra={"facts": {...}}` adds keys."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def log_as_json() -> None:
    """Writes the logs of adapterkit and of uvicorn to standard error, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("adapterkit", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    log.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def loggable_reason(error: Exception) -> str:
    """What a log may say of an error: its message, unless that may quote the text of a request."""
    may_quote = isinstance(error, DataError) or not isinstance(error, AdapterkitError)
    return type(error).__name__ if may_quote else str(error)
