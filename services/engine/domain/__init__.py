"""The exchange itself: pure, deterministic, integers only. Imports nothing but the kernel."""
