"""Searches for the recipe that distils best: data, models, teacher, training, worker groups, sweep, tracking."""
