"""From a recipe to an adapter: plan, run, loop and callbacks; comparison, cross-validation."""
