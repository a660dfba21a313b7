"""The broker's queues, from its management API: 10 ms, where rabbitmqctl starts a whole Erlang machine."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from typing import Any

from ops_agent.host.settings import Settings
from ops_release.run import ProbeError

_TIMEOUT_SECONDS = 2.0
_COLUMNS = "name,type,messages_ready,messages_unacknowledged,consumers"


def probe(settings: Settings) -> dict[str, Any]:
    """Return depth and consumers of every task queue; raise ProbeError if the API does not answer."""
    vhost = urllib.parse.quote(settings.rabbitmq_vhost, safe="")
    listing = _get(settings, f"/api/queues/{vhost}?columns={_COLUMNS}")
    alarms = _get(settings, "/api/health/checks/alarms").get("alarms", [])
    return {
        "queues": [_queue(queue) for queue in listing if _is_task_queue(settings, queue)],
        "expected_queues": list(settings.queues),
        "alarms": sorted({alarm["resource"] for alarm in alarms}),
    }


def _is_task_queue(settings: Settings, queue: dict[str, Any]) -> bool:
    # Celery's own event and control queues are classic and come and go with each worker.
    return queue.get("type") == "quorum" or queue["name"] in settings.queues


def _queue(queue: dict[str, Any]) -> dict[str, Any]:
    # A queue younger than the statistics interval (5 s) has a name and nothing else.
    return {
        "name": queue["name"],
        "ready": queue.get("messages_ready", 0),
        "unacked": queue.get("messages_unacknowledged", 0),
        "consumers": queue.get("consumers", 0),
    }


def _get(settings: Settings, path: str) -> Any:
    password = settings.rabbitmq_password_file.read_text(encoding="utf-8").strip()
    credentials = base64.b64encode(f"monitor:{password}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310
        settings.rabbitmq_url + path, headers={"Authorization": f"Basic {credentials}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        # The alarm check answers 503 with the alarms when there are any.
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return json.load(error)
        raise ProbeError(f"{settings.rabbitmq_url}: {error.code} {error.reason}") from error
    except OSError as error:
        raise ProbeError(f"{settings.rabbitmq_url}: {getattr(error, 'reason', error)}") from error
