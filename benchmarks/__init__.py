"""The project's benchmark: rounds of fedsim, of plain loops and of other simulators, timed in turn on one machine."""
