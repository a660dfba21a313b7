"""What this package adds to Airflow. Every Airflow process that loads plugins imports it: keep it light."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from ops_airflow.api.warm_up import WarmUp


class AirfleetPlugin(AirflowPlugin):  # type: ignore[misc]
    """Found by Airflow through the wheel's entry point."""

    name = "airfleet"
    fastapi_root_middlewares: ClassVar[list[dict[str, Any]]] = [
        {"name": "Warm up before listening", "middleware": WarmUp}
    ]
