"""From a recipe to an adapter: plan, loop, run, comparison, cross-validation."""
