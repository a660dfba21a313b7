"""The figures the README quotes: each module measures one on the lab and prints it beside its target."""
