"""What every Tidebook service shares: listeners, channels, identity, errors, the log, settings.

No business rules live here, and nothing here imports a service.
"""
