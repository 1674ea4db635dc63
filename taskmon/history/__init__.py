"""What outlives taskmon: tasks, workers and counters in a database, written by one thread, read off the loop."""
