"""`python -m adapterkit`, and `accelerate launch -m adapterkit`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="adapterkit")
