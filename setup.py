"""Add the files of a checkout that the installed program needs: examples, versions, run.py."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("configs", "constraints.txt", "pyproject.toml", "run.py")
BUNDLE = "orchestrator/project"  # read by orchestrator/core/project.py; not part of a checkout


class BuildWithProjectFiles(build_py):
    """Build the packages, and copy the project's files into one of them."""

    def run(self) -> None:
        """Build; an editable installation reads the files of its checkout instead."""
        super().run()
        if self.editable_mode:
            return
        bundle = Path(self.build_lib, BUNDLE)
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(parents=True)
        for name in FILES:
            if Path(name).is_dir():
                shutil.copytree(name, bundle / name)
            else:
                shutil.copy(name, bundle)


setup(cmdclass={"build_py": BuildWithProjectFiles})
