"""A campaign: many jobs on one cluster, from a recipe to one report."""
