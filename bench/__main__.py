"""``python -m bench`` is ``awq-bench``."""

from bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
