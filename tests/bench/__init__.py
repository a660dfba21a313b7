"""The figures that docs/figures.md quotes: each module measures one on the lab and prints it beside its target."""
