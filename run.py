"""Run the command line from a checkout: `python run.py COMMAND`."""

from orchestrator.cli.app import app as app

if __name__ == "__main__":
    app()
