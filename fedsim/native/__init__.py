"""The native trainer's C++ and how it is compiled."""
