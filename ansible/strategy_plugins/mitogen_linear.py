"""Ansible's linear strategy over Mitogen's transport; loaded from here because .venv's path names a Python version."""

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

Linear = ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)

# Its own policy keeps all that a run starts on the control node off the first core, for good: on two cores the lab's
# machines would share one.
ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, Linear):  # type: ignore[misc, valid-type]
    """One persistent interpreter a host instead of a new one a task (https://mitogen.networkgenomics.com/ansible.html)."""
