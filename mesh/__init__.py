"""What every Tidebook service shares: listeners, channels, identity, errors, the log client, settings.

No business rules live here, and nothing here imports a service.
"""
