"""The loop (loop.py), what it trains (task.py and one file a task), and on what machine (device.py)."""
