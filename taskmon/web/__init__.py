"""Pages for people; there are few."""
