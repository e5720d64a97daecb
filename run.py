"""Run the command line from a checkout: `python run.py COMMAND`."""

from orchestrator.cli.app import app as app
from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
