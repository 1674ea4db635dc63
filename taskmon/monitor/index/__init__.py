"""How tasks are kept and found: the store, orders and groups sorted lazily, and the finder that scans them."""
