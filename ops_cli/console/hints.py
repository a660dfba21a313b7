"""The commands that messages tell the operator to type; each names its environment, or it would address the lab."""

import shlex

# What ops-agent writes for the environment, whose name it does not know.
_ENVIRONMENT_OF_AGENT = "--env ENV"


def ops(env: str, verb: str, *options: str) -> str:
    """Return a command of ours."""
    return " ".join([f"ops {verb} --env {env}", *map(shlex.quote, options)])


def playbook(env: str, *options: str) -> str:
    """Return the command that converges an environment, or a part of it."""
    return " ".join([f".venv/bin/ansible-playbook -i inventories/{env} site.yml", *options])


def on_hosts(env: str, hosts: str, command: str) -> str:
    """Return the command that runs another one as root on hosts."""
    return f".venv/bin/ansible -i inventories/{env} {hosts} -ba '{command}'"


def ping(env: str, host: str) -> str:
    """Return the command that shows what is in the way of a login."""
    return f".venv/bin/ansible -i inventories/{env} {host} -m ansible.builtin.ping -vvv"


def listing(env: str) -> str:
    """Return the command that shows what Ansible makes of an inventory."""
    return f".venv/bin/ansible-inventory -i inventories/{env} --list"


def of_agent(said: str, env: str) -> str:
    """Return what ops-agent said, with the environment in the commands that it names."""
    return said.replace(_ENVIRONMENT_OF_AGENT, f"--env {env}")
