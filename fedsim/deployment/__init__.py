"""From simulation to real sites: the same scenario over Flower's SuperLink and SuperNodes."""
