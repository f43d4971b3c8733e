"""Side-by-side measurements; each is a module to be run with ``python -m``."""
