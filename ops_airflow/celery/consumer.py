"""Celery's consumer, which takes as many tasks as it has free slots, after a lost connection too.

Tasks run on when the connection breaks, and hold their slots; but the broker knows nothing of them any more. Celery 5.6
either takes a full load on top, which waits behind them while other workers are idle, or lowers the prefetch and never
raises it again, because a quorum queue's consumer keeps the prefetch that it began with (celery issue 9512). Here the
consumer begins with the free slots, and for each old task that ends comes one consumer more, of one message.

It also takes nothing while root asks it to rest, as before the worker's stop: see drain.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer.consumer import Consumer as _Consumer
from celery.worker.consumer.tasks import Tasks as _Tasks

from ops_airflow.celery import drain

LOOK_EVERY_SECONDS = 1.0
# The first declares 28 queues for delayed messages, which Airflow never sends, before it takes a task: at every broker
# of the list, with seconds of retries for one that is away. Remote control, which is off, needs the step replaced here.
_UNWANTED = (":DelayedDelivery", ":Control", ":Tasks")

log = get_logger(__name__)


class Tasks(_Tasks):  # type: ignore[misc]
    """The step that subscribes to the worker's queue."""

    timer: Any = None

    def start(self, c: Any) -> None:
        """Subscribe, unless the worker is asked to rest, and look from time to time whether it is."""
        self.rests = drain.is_asked()
        self._subscribe(c)
        # A lost connection clears the timer.
        c.timer.call_repeatedly(drain.EVERY_SECONDS, self._look, (c,))

    def _look(self, c: Any) -> None:
        rested, self.rests = self.rests, drain.is_asked()
        if self.rests and not rested:
            log.info("asked to rest: takes no more tasks")
            self.stop(c)
        elif rested and not self.rests:
            log.info("takes tasks again")
            on_message = c.task_consumer.on_message
            self._subscribe(c)
            c.task_consumer.on_message = on_message
            c.task_consumer.consume()
        drain.report({*state.reserved_requests, *state.active_requests}, resting=self.rests)

    def _subscribe(self, c: Any) -> None:
        """Subscribe with the free slots, and look from time to time whether there are more."""
        self.more: list[Any] = []
        old = tuple(state.active_requests)
        granted = max(c.max_prefetch_count - len(old), 0)
        # Zero would mean no limit; a consumer that may take nothing yet does not subscribe.
        c.initial_prefetch_count = granted or 1
        super().start(c)
        if self.rests or not granted:
            for queue in tuple(c.task_consumer.queues):
                c.task_consumer.cancel_by_queue(queue)
        if old and not self.rests:
            log.info("%d tasks run on from before this subscription; %d slots are free", len(old), granted)
            self.timer = c.timer.call_repeatedly(LOOK_EVERY_SECONDS, self._take_more, (c, old, granted))

    def _take_more(self, c: Any, old: tuple[Any, ...], granted: int) -> None:
        running = sum(request in state.active_requests for request in old)
        while granted + len(self.more) < c.max_prefetch_count - running:
            consumer = c.app.amqp.TaskConsumer(
                c.connection, on_decode_error=c.on_decode_error, tag_prefix=f"more{len(self.more)}."
            )
            consumer.on_message = c.task_consumer.on_message
            consumer.qos(prefetch_count=1, apply_global=False)
            consumer.consume()
            self.more.append(consumer)
        if not running:
            self.timer.cancel()

    def stop(self, c: Any) -> None:
        """Take no more tasks."""
        if self.timer:
            self.timer.cancel()
        for consumer in self.more:
            try:
                consumer.cancel()
            except c.connection_errors + c.channel_errors as error:
                log.debug("already away: %r", error)
        self.more = []
        super().stop(c)


class Consumer(_Consumer):  # type: ignore[misc]
    """Named by Celery's setting worker_consumer."""

    class Blueprint(_Consumer.Blueprint):  # type: ignore[misc]
        """Its steps."""

        default_steps: ClassVar[list[Any]] = [
            *(step for step in _Consumer.Blueprint.default_steps if not step.endswith(_UNWANTED)),
            Tasks,
        ]
