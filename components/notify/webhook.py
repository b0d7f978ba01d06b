"""One JSON message to one address, tried again while that may help. The address is a secret: it is never shown."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

ATTEMPT_SECONDS = 10.0
PAUSES: tuple[float, ...] = (1, 2, 4, 8)  # seconds between attempts
LONGEST_PAUSE = 30.0  # also where the server asks for a longer one
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class _Answer(Exception):  # noqa: N818  # not always an error
    """What an attempt came to, and after how many seconds another one may help; None: none will."""

    def __init__(self, what: str, again: float | None) -> None:
        super().__init__(what)
        self.what, self.again = what, again


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, or somewhere that was never named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, message: dict[str, Any]) -> str:
    """Posts a message as JSON. Returns what to say of it; raises nothing that the server or the network did."""
    if not url.startswith(("http://", "https://")):
        return "not posted: the webhook's address must begin with http:// or https://"
    for attempt, pause in enumerate((*PAUSES, None), start=1):
        try:
            _attempt(url, message)
        except _Answer as answer:
            if answer.again is None or pause is None:
                times = f"{attempt} attempt{'s' if attempt > 1 else ''}"
                return f"not posted, after {times}: {answer.what}"
            time.sleep(min(max(pause, answer.again), LONGEST_PAUSE))
        else:
            return f"posted to the webhook{f', attempt {attempt}' if attempt > 1 else ''}"
    raise AssertionError("the last attempt returns")


def _attempt(url: str, message: dict[str, Any]) -> None:
    """Raises _Answer unless the server took the message."""
    try:
        request = urllib.request.Request(  # noqa: S310  # its scheme was checked
            url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=ATTEMPT_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            again = _seconds(error.headers.get("Retry-After")) if error.code in TRANSIENT else None
        raise _Answer(f"the webhook answered {error.code}", again) from None
    except (ValueError, http.client.InvalidURL):
        raise _Answer("the webhook's address is not a URL", None) from None
    except (OSError, http.client.HTTPException) as error:  # errors of either kind may hold the address in their text
        reason = getattr(error, "reason", error)
        raise _Answer(f"the webhook cannot be reached: {type(reason).__name__}", 0) from None


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0
