"""Ask the lab's database as any login, from the database's own machine."""

from pathlib import Path
from typing import Any

from testinfra.host import Host as Machine

SECRETS = Path("/var/lib/airfleet/lab/secrets")


def address(host: Machine) -> str:
    return str(host.check_output("hostname -I").split()[0])


def password(login: str) -> str:
    return (SECRETS / f"postgres_{login}").read_text().strip()


def ask(host: Machine, login: str, statements: str, **options: str) -> Any:
    """Run statements over the network as `login` would; options are libpq's environment (PGPORT, PGDATABASE, ...)."""
    settings = {
        "PGHOST": address(host),
        "PGDATABASE": "airflow",
        "PGUSER": login,
        "PGPASSWORD": password(login),
    } | options
    words = " ".join(f"{name}='{value}'" for name, value in settings.items())
    return host.run(f"env {words} psql -XqAt -v ON_ERROR_STOP=1 <<'END'\n{statements}\nEND")


def superuser(host: Machine, statements: str) -> list[str]:
    answer = host.check_output(
        f"runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 airflow <<'END'\n{statements}\nEND"
    )
    return str(answer).splitlines()
