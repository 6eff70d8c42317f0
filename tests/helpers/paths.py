"""Folders of the checkout and beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"

DEPLOY = ROOT / "recipes" / "deploy"
"""Files of other programs, among which no YAML file is a recipe."""

RECIPES = sorted(
    file for file in (ROOT / "recipes").rglob("*.yaml") if not file.is_relative_to(DEPLOY)
)
