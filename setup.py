"""Metadata and dependencies stand in pyproject.toml; this file is where building from source hooks in."""

from setuptools import setup

setup()
