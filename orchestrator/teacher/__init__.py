"""The teacher: fitted or loaded once, frozen, and what it says about each view."""
